"""S3 servers that tests use: an emulator in its own process, and a real one where it is named."""

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "kilter-tests"
AWS_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server answers, and the environment that a client needs for it."""

    environment: dict[str, str]

    def make_bucket(self, bucket: str = BUCKET) -> None:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket=bucket)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_moto(folder: Path) -> "Iterator[tuple[S3Server, subprocess.Popen[bytes]]]":
    """Run moto_server until the end of the block."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = Path(sys.executable).with_name("moto_server")
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen([str(command), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        _wait_until_it_answers(endpoint)
        server = S3Server(dict(zip(AWS_VARIABLES, (endpoint, "emulated", "emulated-secret", "us-east-1"), strict=True)))
        server.make_bucket()
        yield server, process
    finally:
        process.kill()
        process.wait()


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(OSError), wait=tenacity.wait_fixed(0.1), stop=tenacity.stop_after_delay(60)
)
def _wait_until_it_answers(endpoint: str) -> None:
    with urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5):
        pass
