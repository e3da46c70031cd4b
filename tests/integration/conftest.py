"""Places to keep a store: a folder, an S3 emulator in its own process, and a real S3 server where one is named."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_servers import AWS_VARIABLES, BUCKET, S3Server, running_moto

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory) -> "Iterator[S3Server]":
    with running_moto(tmp_path_factory.mktemp("moto")) as (server, _):
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> S3Server:
    if os.environ.get("KILTER_TEST_S3") != "1":
        pytest.skip("no real S3 server: set KILTER_TEST_S3=1 and the AWS_* variables that lead to it")
    absent = [name for name in AWS_VARIABLES if name not in os.environ]
    if absent:
        pytest.fail(f"KILTER_TEST_S3=1 needs {', '.join(absent)}")
    server = S3Server({name: os.environ[name] for name in AWS_VARIABLES})
    server.make_bucket()
    return server


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "scratch"
    monkeypatch.setenv("KILTER_SCRATCH", str(folder))
    return folder


def _use(server: S3Server, monkeypatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def s3_uri(request, scratch, monkeypatch) -> str:
    """An empty prefix on an S3 server, with the environment set."""
    return _use(request.getfixturevalue(f"{request.param}_server"), monkeypatch)


@pytest.fixture(params=["folder", "moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def store_uri(request, scratch, tmp_path, monkeypatch) -> str:
    """An empty place for a store, of every kind."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return _use(request.getfixturevalue(f"{request.param}_server"), monkeypatch)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> "Iterator[Path]":
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def make_read_only():
    """A function that makes a folder read-only, for root too."""
    undo = []

    def make(folder: Path) -> None:
        if os.geteuid() == 0:
            _mount("--bind", str(folder), str(folder))
            undo.append(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))
            _mount("-o", "remount,ro,bind", str(folder))
            return
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o555)
                undo.append(lambda path=path: path.chmod(0o755))

    yield make
    for act in reversed(undo):
        act()
