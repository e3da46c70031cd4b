"""Objects in S3, or in a server that speaks it. Importing this imports boto3; `open_objects` does so only when needed.

Endpoint, region and credentials come from the usual AWS environment and configuration files.
"""

import hashlib
import os
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
import tenacity
from botocore import exceptions as botocore_errors
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3UploadFailedError
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from kilter.errors import StoreError
from kilter.store.localfiles import explained, flush, temporary_name
from kilter.store.names import check_name, check_prefix
from kilter.store.objects import ObjectInfo, ObjectMissing, WrongSize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from s3transfer.futures import TransferFuture

PART_BYTES = 16 * 1024 * 1024
PARALLEL_PARTS = 8
CONNECTIONS = 32
TRIES = 6
_BATCH = 1000

_BROKEN_STREAM = (
    botocore_errors.IncompleteReadError,
    botocore_errors.ReadTimeoutError,
    botocore_errors.ResponseStreamingError,
    botocore_errors.ConnectionClosedError,
)
_NO_CREDENTIALS = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.ProfileNotFound,
    botocore_errors.TokenRetrievalError,
    botocore_errors.SSOError,
)
_FAILED_TRANSFER = (S3DownloadFailedError, S3UploadFailedError)
_MISSING_CODES = {"NoSuchKey", "404", "NotFound"}
_EXISTS_CODES = {"PreconditionFailed", "412"}
_REFUSED_CREDENTIALS = {
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "InvalidAccessKeyId": "the access key is not known there",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}
_DENIED_CODES = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem", "InvalidObjectState"}
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "507"}
_REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_UNAVAILABLE_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"}

_Result = TypeVar("_Result")


def _retrying(*errors: type[BaseException]) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        stop=tenacity.stop_after_attempt(TRIES),
        reraise=True,
    )


class S3Objects:
    """Each object is a key below `prefix` in `bucket`."""

    def __init__(self, bucket: str, prefix: str, connect: "Callable[[], S3Client] | None" = None) -> None:
        self._bucket = bucket
        self._prefix = check_name(prefix) + "/" if prefix else ""
        self._connect = connect or connect_from_environment
        self._lock = threading.Lock()
        self._process = -1
        self._connected: S3Client | None = None
        self._transfers: TransferManager | None = None
        self._bucket_was_seen = False
        self._running: dict[TransferFuture, str] = {}

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        """See `Objects.read`."""
        key = self._key(name)
        with self._explained("read", name):
            return _retrying(*_BROKEN_STREAM)(self._read, key)

    def info(self, name: str) -> ObjectInfo | None:
        """See `Objects.info`."""
        try:
            with self._explained("look at", name):
                head = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        except ObjectMissing:
            self._require_bucket()
            return None
        return ObjectInfo(name, head["ContentLength"])

    def list(self, prefix: str) -> "Iterator[ObjectInfo]":
        """See `Objects.list`."""
        start = self._prefix + check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
        for page in self._pages(iter(pages)):
            for entry in page.get("Contents", ()):
                name = entry["Key"][len(self._prefix) :]
                # Some tools mark a folder by an empty object whose name ends so.
                if not name.endswith("/"):
                    yield ObjectInfo(name, entry["Size"], entry["ETag"])

    def folders(self, prefix: str) -> "Iterator[str]":
        """See `Objects.folders`."""
        start = self._prefix + check_prefix(prefix)
        paginator = self._client.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self._bucket, Prefix=start, Delimiter="/")
        for page in self._pages(iter(pages)):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][len(self._prefix) :].rstrip("/")

    def create(self, name: str, data: bytes) -> bool:
        """See `Objects.create`: one single-part put with `If-None-Match: *`."""
        key = self._key(name)
        with self._explained("write", name, len(data)):
            try:
                _retrying(_Conflict)(self._put_new, key, data)
            except _Exists as exists:
                # Our own first try may have got through although its answer was lost.
                return exists.retried and self._read(key) == data
        return True

    def write(self, name: str, data: bytes) -> None:
        """See `Objects.write`."""
        with self._explained("write", name, len(data)):
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data)

    def delete(self, names: "Iterable[str]") -> None:
        """See `Objects.delete`: in batches of a thousand."""
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            with self._explained("delete", batch[0][len(self._prefix) :]):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            failed = [entry for entry in answer.get("Errors", ()) if entry.get("Code") not in _MISSING_CODES]
            if failed:
                raise self._explanation(_client_error(failed[0]), "delete", failed[0].get("Key", ""), None)

    def upload(self, path: "Path", name: str, progress: "Callable[[int], None] | None" = None) -> None:
        """See `Objects.upload`."""
        key = self._key(name)
        with explained(f"read {path.name}", path):
            size = path.stat().st_size
        with self._explained("write", name, size), explained(f"read {path.name}", path):
            self._finish(name, self._manager.upload(str(path), self._bucket, key, subscribers=_subscribers(progress)))

    def download(self, info: ObjectInfo, path: "Path", progress: "Callable[[int], None] | None" = None) -> None:
        """See `Objects.download`."""
        key = self._key(info.name)
        temporary = path.parent / temporary_name()
        with explained(f"download {info.name}", path, info.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._explained("read", info.name):
                    self._finish(
                        info.name,
                        self._manager.download(self._bucket, key, str(temporary), subscribers=_subscribers(progress)),
                    )
                found = temporary.stat().st_size
                if found != info.size:
                    raise WrongSize(f"{info.name} in {self.uri} has {found} bytes instead of {info.size}")
                flush(temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            flush(path.parent)

    def interrupt(self, prefix: str) -> None:
        """See `Objects.interrupt`."""
        with self._lock:
            running = [future for future, name in self._running.items() if name.startswith(prefix)]
        for future in running:
            future.cancel()

    def local_path(self, name: str) -> "Path | None":
        """See `Objects.local_path`."""
        check_name(name)
        return None

    def digest(self, name: str) -> str:
        """See `Objects.digest`."""
        key = self._key(name)
        with self._explained("read", name):
            return _retrying(*_BROKEN_STREAM)(self._digest, key)

    def age(self, name: str) -> float | None:
        """See `Objects.age`: both times come from the server."""
        try:
            with self._explained("look at", name):
                head = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        except ObjectMissing:
            return None
        now = _server_time(head["ResponseMetadata"]["HTTPHeaders"])
        return None if now is None else now - head["LastModified"].timestamp()

    def sweep(self, older_than_seconds: float, dry_run: bool) -> int:
        """See `Objects.sweep`: uploads in parts that were never completed."""
        swept = 0
        with self._explained("list the unfinished uploads of", ""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                now = _server_time(page["ResponseMetadata"]["HTTPHeaders"])
                for upload in page.get("Uploads", ()):
                    started = upload["Initiated"].timestamp()
                    if now is not None and now - started > older_than_seconds:
                        swept += self._sweep_upload(upload["Key"], upload["UploadId"], dry_run)
        return swept

    @property
    def _client(self) -> "S3Client":
        with self._lock:
            self._renew_after_fork()
            if self._connected is None:
                with self._explained("connect to", ""):
                    self._connected = self._connect()
            return self._connected

    @property
    def _manager(self) -> TransferManager:
        client = self._client
        with self._lock:
            if self._transfers is None:
                self._transfers = TransferManager(
                    client,
                    TransferConfig(
                        multipart_threshold=PART_BYTES,
                        multipart_chunksize=PART_BYTES,
                        max_request_concurrency=PARALLEL_PARTS,
                        io_chunksize=1024 * 1024,
                    ),
                )
            return self._transfers

    def _renew_after_fork(self) -> None:
        # Sockets and threads do not survive a fork.
        if self._process != os.getpid():
            self._process = os.getpid()
            self._connected = None
            self._transfers = None
            self._running = {}

    def _finish(self, name: str, future: "TransferFuture") -> None:
        with self._lock:
            self._running[future] = name
        try:
            future.result()
        finally:
            with self._lock:
                self._running.pop(future, None)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _read(self, key: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._client.get_object(Bucket=self._bucket, Key=key)["Body"].iter_chunks(1024 * 1024):
            digest.update(chunk)
        return digest.hexdigest()

    def _put_new(self, key: str, data: bytes) -> None:
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
        except botocore_errors.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _EXISTS_CODES:
                raise _Exists(retried=error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0) from error
            # 409: another conditional put of this key is under way and may still fail.
            if code == "ConditionalRequestConflict" or error.response["ResponseMetadata"].get("HTTPStatusCode") == 409:
                raise _Conflict from error
            raise

    def _pages(self, pages: "Iterator[_Result]") -> "Iterator[_Result]":
        while True:
            with self._explained("list", ""):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _sweep_upload(self, key: str, upload: str, dry_run: bool) -> int:
        try:
            parts = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
            size = sum(part["Size"] for page in parts for part in page.get("Parts", ()))
            if not dry_run:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except self._client.exceptions.NoSuchUpload:
            return 0
        return size

    def _require_bucket(self) -> None:
        # A HEAD without its object cannot say that it is the bucket that is missing.
        if self._bucket_was_seen:
            return
        try:
            with self._explained("look at", ""):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing as error:
            raise self._no_bucket() from error
        except StoreError as error:
            # Some credentials may read the objects but not the bucket.
            if not _is_denied(error.__cause__):
                raise
        self._bucket_was_seen = True

    def _no_bucket(self) -> StoreError:
        return StoreError(f"there is no bucket {self._bucket} at {self._endpoint()}; make it, or check the store's URI")

    @contextmanager
    def _explained(self, action: str, name: str, needed: int | None = None) -> "Iterator[None]":
        try:
            yield
        except RetriesExceededError as error:
            raise self._explanation(error.last_exception, action, name, needed) from error.last_exception
        except (botocore_errors.BotoCoreError, botocore_errors.ClientError, *_FAILED_TRANSFER, _Conflict) as error:
            raise self._explanation(error, action, name, needed) from error
        except CancelledError as error:
            raise StoreError(f"could not {action} {self.uri}/{name}: the transfer was interrupted") from error

    def _explanation(self, error: BaseException, action: str, name: str, needed: int | None) -> StoreError:
        what = f"could not {action} {self.uri}/{name}".rstrip("/")
        if isinstance(error, _NO_CREDENTIALS):
            return StoreError(
                f"{what}: no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_PROFILE"
            )
        if isinstance(error, botocore_errors.HTTPClientError | botocore_errors.ConnectionError):
            return StoreError(
                f"{what}: {self._endpoint()} does not answer ({type(error).__name__}); check AWS_ENDPOINT_URL, the "
                "network, and whether the server runs"
            )
        if isinstance(error, _Conflict):
            return StoreError(f"{what}: other writers kept interfering; try again")
        if not isinstance(error, botocore_errors.ClientError):
            return StoreError(f"{what}: {type(error).__name__}: {error}")
        return self._explained_answer(error, what, name, needed)

    def _explained_answer(
        self, error: botocore_errors.ClientError, what: str, name: str, needed: int | None
    ) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in _MISSING_CODES:
            return ObjectMissing(f"{self.uri} holds no object {name}")
        if code in _REFUSED_CREDENTIALS:
            return StoreError(
                f"{what}: {self._endpoint()} refused the credentials ({code}): {_REFUSED_CREDENTIALS[code]}; check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if code in _DENIED_CODES:
            return StoreError(f"{what}: access denied; these credentials need the right to read, list and write there")
        if code in _FULL_CODES:
            amount = "" if needed is None else f" ({needed} bytes needed)"
            return StoreError(f"{what}: no space left there{amount}: {code}; free some, or have the quota raised")
        if code in _REGION_CODES:
            return StoreError(
                f"{what}: the bucket is in another region ({code}); set AWS_DEFAULT_REGION to the bucket's"
            )
        if code in _UNAVAILABLE_CODES:
            return StoreError(f"{what}: the server is overloaded or failing ({code}) and stayed so; try again later")
        message = error.response.get("Error", {}).get("Message", "")
        return StoreError(f"{what}: {code}: {message}")

    def _endpoint(self) -> str:
        if self._connected is None:
            return "the S3 server"
        return _without_credentials(self._connected.meta.endpoint_url)


def connect_from_environment() -> "S3Client":
    """Return a client as the AWS environment says, with path-style addresses where the server is not Amazon's."""
    session = boto3.session.Session()
    client = _connect(session, None)
    style = (client.meta.config.s3 or {}).get("addressing_style")  # type: ignore[attr-defined]
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if style is None and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return _connect(session, "path")
    return client


def _connect(session: boto3.session.Session, addressing_style: str | None) -> "S3Client":
    retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = TRIES
    config = Config(
        retries=retries,  # type: ignore[arg-type]
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        s3=None if addressing_style is None else {"addressing_style": addressing_style},  # type: ignore[arg-type]
    )
    return session.client("s3", config=config)


class _Exists(Exception):  # noqa: N818
    """The object exists already."""

    def __init__(self, retried: bool) -> None:
        super().__init__()
        self.retried = retried


class _Conflict(Exception):  # noqa: N818
    """Another conditional put of the same key is under way."""


class _Progress(BaseSubscriber):
    def __init__(self, progress: "Callable[[int], None]") -> None:
        self._progress = progress

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:  # noqa: ARG002
        self._progress(bytes_transferred)


def _subscribers(progress: "Callable[[int], None] | None") -> "list[BaseSubscriber]":
    return [] if progress is None else [_Progress(progress)]


def _server_time(headers: "dict[str, str]") -> float | None:
    date = headers.get("date")
    return None if date is None else parsedate_to_datetime(date).timestamp()


def _client_error(entry: Any) -> botocore_errors.ClientError:
    return botocore_errors.ClientError(
        {"Error": {"Code": entry.get("Code", ""), "Message": entry.get("Message", "")}}, "DeleteObjects"
    )


def _is_denied(error: BaseException | None) -> bool:
    return (
        isinstance(error, botocore_errors.ClientError) and error.response.get("Error", {}).get("Code") in _DENIED_CODES
    )


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
