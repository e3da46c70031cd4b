"""Resume state: what a killed stage needs to go on, and nobody else ever reads.

Optimizers and DeepSpeed pickle their state, and reading a pickle runs code. So a checkpoint lists its files with their
digests and is signed (HMAC-SHA256, RFC 2104) with a key that is not in the store. It is copied to this machine first
and checked there, so that nobody can change it between the check and its use. What does not fit is refused. Whoever can
write the store can at most bring back an older checkpoint of the same stage and key.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationError

from kilter.canonical import canonical_json
from kilter.errors import StoreError, WrongInput
from kilter.model import Model
from kilter.store import layout
from kilter.store.localfiles import explained, flush, require_space, sha256_of, temporary_name, write_flushed
from kilter.store.manifest import StoredObject
from kilter.store.names import check_name
from kilter.store.objects import ObjectInfo, ObjectMissing
from kilter.store.store import each_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kilter.store.store import Attempt, Store

KEY_VARIABLE = "KILTER_SIGNING_KEY"
KEPT = 2
_SHORTEST_KEY = 16
_LISTING = "checkpoint.json"

_log = logging.getLogger(__name__)


class Checkpoint(Model):
    """What a checkpoint consists of, and of what it is one."""

    stage: str
    key: str
    attempt: str
    step: int = Field(ge=0)
    files: tuple[StoredObject, ...]


class SignedCheckpoint(Model):
    """A checkpoint with the signature of whoever wrote it."""

    checkpoint: Checkpoint
    signature: Annotated[str, AfterValidator(str.lower)]


class Refused(StoreError):  # noqa: N818
    """A checkpoint is not what this stage wrote."""


class ResumeState:
    """The checkpoints of one stage and key, over all attempts."""

    def __init__(self, store: "Store", attempt: "Attempt", signing_key: bytes | None, keep: int = KEPT) -> None:
        self._store = store
        self._objects = store.objects
        self._attempt = attempt
        self._signing_key = signing_key
        self._keep = keep
        self._folder = layout.resume(attempt.reference, attempt.identifier)

    def latest(self) -> Path | None:
        """Return a private copy of the newest checkpoint that can be trusted, or None to start from the beginning.

        The copy lies in the attempt's scratch folder. A checkpoint that is refused is logged with the reason.
        """
        found = self._found()
        if not found:
            return None
        if self._signing_key is None:
            _log.warning("%s starts from the beginning: %s is not set", self._attempt.reference, KEY_VARIABLE)
            return None
        for folder in sorted(found, key=lambda name: (_step(name), name), reverse=True):
            try:
                return self._bring(folder, self._signing_key)
            except Refused as reason:
                _log.warning("checkpoint %s/%s is refused: %s", self._store.uri, folder, reason)
        return None

    def take(self, directory: Path, step: int) -> Path:
        """Move the checkpoint after `step` to where nobody but this class touches it, without copying, and return it.

        For a folder store that is where it will stay; without its list it does not count yet.

        Raises:
            StoreError: it cannot be moved.
        """
        here = self._objects.local_path(f"{self._folder_of(step)}/files")
        taken = self._attempt.scratch / f"checkpoint-{step}" if here is None else here
        with explained("move the checkpoint", taken):
            taken.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(taken, ignore_errors=True)
            shutil.move(directory, taken)
        return taken

    def keep(self, taken: Path, step: int, cancelled: "Callable[[], bool]" = lambda: False) -> bool:
        """Put a checkpoint that was taken into the store, whole or not at all, and delete the oldest beyond `keep`.

        Args:
            taken: from `take`; it is gone afterwards, or has become the store's.
            step: after which it was made.
            cancelled: asked before every file; once it is true the rest is not sent.

        Returns:
            False without a signing key: nothing is kept, since nothing could be trusted later. This is logged.

        Raises:
            StoreError: a file is no plain file, the store cannot be written, or it was cancelled; earlier checkpoints
                are still there, and so is `taken`.
        """
        if self._signing_key is None:
            _log.warning("no resume state of %s is kept: %s is not set", self._attempt.reference, KEY_VARIABLE)
            self.discard(taken)
            return False
        folder = self._folder_of(step)
        stays = self._objects.local_path(folder) is not None

        def send(stored: StoredObject) -> None:
            _go_on(cancelled)
            self._objects.upload(taken / stored.name, f"{folder}/files/{stored.name}")

        checkpoint = Checkpoint(
            stage=self._attempt.reference.stage,
            key=self._attempt.reference.key,
            attempt=self._attempt.identifier,
            step=step,
            files=_digested(taken, stays, cancelled),
        )
        self._objects.delete([f"{folder}/{_LISTING}"])
        for _ in each_in_threads(send, checkpoint.files, self.interrupt):
            pass
        signed = SignedCheckpoint(checkpoint=checkpoint, signature=_signature(checkpoint, self._signing_key))
        listing = json.dumps(signed.model_dump(mode="json"), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        self._objects.write(f"{folder}/{_LISTING}", listing.encode())
        if not stays:
            self.discard(taken)
        try:
            self._forget_older(step)
        except StoreError as error:
            _log.warning("older checkpoints of %s stay for now: %s", self._attempt.reference, error)
        return True

    def interrupt(self) -> None:
        """Make `keep`, in whatever thread it runs, end soon with an error if it was cancelled."""
        self._objects.interrupt(f"{self._folder}/")

    def discard(self, taken: Path) -> None:
        """Delete a checkpoint that was taken and is not to be kept."""
        shutil.rmtree(taken, ignore_errors=True)
        if taken.parent != self._attempt.scratch:
            with suppress(OSError):
                taken.parent.rmdir()
                taken.parent.parent.rmdir()

    def clear(self) -> None:
        """Delete the checkpoints of all attempts; call it after the commit."""
        prefix = layout.attempts(self._attempt.reference)
        folders = [name for name in self._objects.folders(prefix) if name.endswith(".resume")]
        self._delete(folders)

    def _folder_of(self, step: int) -> str:
        return f"{self._folder}/{step:012d}"

    def _found(self) -> list[str]:
        return [folder for folder in self._folders() if self._is_whole(folder)]

    def _folders(self) -> list[str]:
        prefix = layout.attempts(self._attempt.reference)
        return [
            checkpoint
            for attempt in self._objects.folders(prefix)
            if attempt.endswith(".resume")
            for checkpoint in self._objects.folders(f"{attempt}/")
        ]

    def _is_whole(self, folder: str) -> bool:
        return self._objects.info(f"{folder}/{_LISTING}") is not None

    def _bring(self, folder: str, signing_key: bytes) -> Path:
        checkpoint = self._trusted(folder, signing_key)
        target = self._attempt.scratch / f"resume-{checkpoint.step}-{secrets.token_hex(4)}"
        with explained("make a folder for the checkpoint", target):
            target.mkdir(mode=0o700, parents=True)
        require_space(target, sum(stored.size for stored in checkpoint.files))
        try:
            for _ in each_in_threads(lambda stored: self._bring_file(folder, stored, target), checkpoint.files):
                pass
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return target

    def _trusted(self, folder: str, signing_key: bytes) -> Checkpoint:
        try:
            signed = SignedCheckpoint.model_validate(json.loads(self._objects.read(f"{folder}/{_LISTING}")))
        except (ValueError, ValidationError, ObjectMissing) as error:
            raise Refused(f"its list cannot be read ({type(error).__name__})") from error
        checkpoint = signed.checkpoint
        if not hmac.compare_digest(signed.signature.encode(), _signature(checkpoint, signing_key).encode()):
            raise Refused("its signature is not by this key")
        reference = self._attempt.reference
        expected = f"{layout.resume(reference, checkpoint.attempt)}/{checkpoint.step:012d}"
        if (checkpoint.stage, checkpoint.key) != (reference.stage, reference.key) or folder != expected:
            raise Refused(f"it belongs to {checkpoint.stage}/{checkpoint.key}, step {checkpoint.step}")
        return checkpoint

    def _bring_file(self, folder: str, stored: StoredObject, target: Path) -> None:
        path = target / check_name(stored.name)
        name = f"{folder}/files/{stored.name}"
        found = self._objects.info(name)
        if found is None or found.size != stored.size:
            raise Refused(f"{stored.name} is missing or of another size")
        self._objects.download(ObjectInfo(name, stored.size), path)
        if sha256_of(path) != stored.sha256:
            raise Refused(f"{stored.name} has another digest")

    def _forget_older(self, newest: int) -> None:
        everything = self._folders()
        whole = {folder for folder in everything if self._is_whole(folder)}
        earlier = [folder for folder in everything if _step(folder) < newest]
        mine = sorted((folder for folder in earlier if folder in whole and self._is_mine(folder)), key=_step)
        others = [folder for folder in earlier if folder in whole and not self._is_mine(folder)]
        # What a killed attempt left half done is nobody's any more; a newer half of ours is on its way.
        halves = [folder for folder in everything if folder not in whole]
        halves = [folder for folder in halves if not self._is_mine(folder) or _step(folder) < newest]
        # Earlier attempts' checkpoints go as soon as this attempt has enough newer ones.
        enough = len(mine) >= self._keep - 1
        self._delete(mine[: len(mine) - self._keep + 1] + (others if enough else []) + halves)

    def _is_mine(self, folder: str) -> bool:
        return folder.startswith(f"{self._folder}/")

    def _delete(self, folders: list[str]) -> None:
        # The lists first: what has no list does not count, should this be cut short.
        self._objects.delete([f"{folder}/{_LISTING}" for folder in folders])
        self._objects.delete([info.name for folder in folders for info in self._objects.list(f"{folder}/")])


def resume_state(store: "Store", attempt: "Attempt", signing_key: bytes | None, keep: int = KEPT) -> ResumeState:
    """Return the resume state of the stage and key that `attempt` is at; without a key there is none.

    Args:
        store: where it lies.
        attempt: whose checkpoints are written.
        signing_key: from `signing_key`.
        keep: how many checkpoints stay, at least one.
    """
    return ResumeState(store, attempt, signing_key, keep)


def signing_key(environment: "Mapping[str, str]", config_home: Path) -> bytes | None:
    """Return the key that signs resume state: `KILTER_SIGNING_KEY`, or one kept in this user's configuration folder.

    Args:
        environment: the environment variables.
        config_home: such as `~/.config`; `kilter/signing-key` in it is made once, readable by its owner only. Where
            several machines share a store, set the variable: a machine does not trust another one's own key.

    Returns:
        None if there is neither, because the folder cannot be written.

    Raises:
        WrongInput: the key is too short, or the file can be read by others.
    """
    given = environment.get(KEY_VARIABLE)
    if given is not None:
        return _long_enough(given.encode(), KEY_VARIABLE)
    path = config_home / "kilter" / "signing-key"
    try:
        if not path.exists():
            _make_key_file(path)
        if path.stat().st_mode & 0o077:
            raise WrongInput(
                f"the signing key {path} can be read by others; `chmod 600` it, or delete it for a new one"
            )
        return _long_enough(path.read_bytes().strip(), str(path))
    except OSError as error:
        _log.warning("no signing key: %s: %s; set %s to resume stages", path, error.strerror, KEY_VARIABLE)
        return None


def _make_key_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.parent / temporary_name()
    write_flushed(temporary, secrets.token_hex(32).encode() + b"\n", 0o600)
    try:
        os.link(temporary, path)
    except FileExistsError:
        # Another process was first; its key is the key.
        pass
    finally:
        temporary.unlink()


def _long_enough(key: bytes, source: str) -> bytes:
    if len(key) < _SHORTEST_KEY:
        raise WrongInput(f"the signing key in {source} is shorter than {_SHORTEST_KEY} bytes; use 32 random ones")
    return key


def _signature(checkpoint: Checkpoint, key: bytes) -> str:
    return hmac.new(key, canonical_json(checkpoint.model_dump(mode="json")), hashlib.sha256).hexdigest()


def _digested(directory: Path, durably: bool, cancelled: "Callable[[], bool]") -> tuple[StoredObject, ...]:
    def digest(name: str) -> str:
        _go_on(cancelled)
        if durably:
            flush(directory / name)
        return sha256_of(directory / name)

    with explained("read the checkpoint", directory):
        names = sorted(_plain_files(directory))
        if not names:
            raise StoreError(f"there is no checkpoint in {directory}")
        digests = list(each_in_threads(digest, names))
        if durably:
            for folder in {directory, *((directory / name).parent for name in names)}:
                flush(folder)
        return tuple(
            StoredObject(name=name, size=(directory / name).stat().st_size, sha256=sha256) for name, sha256 in digests
        )


def _go_on(cancelled: "Callable[[], bool]") -> None:
    if cancelled():
        raise StoreError("the checkpoint was not sent to its end: it is needed no longer")


def _step(folder: str) -> int:
    digits = folder.rpartition("/")[2]
    return int(digits) if digits.isdecimal() else -1


def _plain_files(directory: Path) -> list[str]:
    names = []
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise StoreError(f"{path.name} of the checkpoint is a link; checkpoints are plain files")
        if path.is_file():
            names.append(check_name(path.relative_to(directory).as_posix()))
    return names
