"""Finds out what a study's sources are: the content address and, where it is cheap, the rows of each."""

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.canonical import digest
from kilter.data.builtin import BUILTIN
from kilter.errors import KilterError, WrongInput
from kilter.plan.sources import ResolvedSource, SourceName, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.study.facts import Facts
    from kilter.study.specification import Study

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_CHUNK = 1 << 20
_DATA_SUFFIXES = (".parquet", ".jsonl", ".json")


def resolve_sources(
    study: "Study", folder: Path, facts: "Facts", *, online: bool
) -> "dict[SourceName, ResolvedSource]":
    """Resolve every source of a study, relative paths being relative to `folder`.

    Raises:
        WrongInput: a source is neither a built-in set, an existing path, an s3:// prefix nor a hub id.
    """
    resolved: dict[SourceName, ResolvedSource] = {}
    for name in names_of(study):
        resolved[name] = _resolve(name, folder, facts, online=online)
        # A hub that did not answer once is not waited for again.
        online = online and not resolved[name].content.startswith("unresolved:")
    return resolved


def _resolve(name: SourceName, folder: Path, facts: "Facts", *, online: bool) -> ResolvedSource:
    source = name.source
    if source.startswith("builtin:"):
        return _builtin(source.removeprefix("builtin:"))
    if source.startswith("s3://"):
        return _s3(source)
    path = (folder / Path(source).expanduser()).resolve()
    if path.exists():
        rows = _rows(path) if name.kind == "data" else {}
        return ResolvedSource(content_of_folder(path), {"path": str(path), "source": source}, rows)
    if _HUB_ID.match(source):
        return _hub(name, facts, online=online)
    raise WrongInput(f"{source} is neither a file or folder at {path}, nor a hub id, an s3:// prefix or builtin:NAME")


def is_hub_source(name: SourceName, folder: Path) -> bool:
    """Tell whether a source is on the hub rather than built in, in S3 or on this machine."""
    if name.source.startswith(("builtin:", "s3://")) or (folder / Path(name.source).expanduser()).exists():
        return False
    return _HUB_ID.match(name.source) is not None


def _builtin(name: str) -> ResolvedSource:
    if name not in BUILTIN:
        raise WrongInput(f"there is no built-in data set {name!r}; there are {', '.join(BUILTIN)}")
    data = BUILTIN[name]
    return ResolvedSource(
        f"builtin:{name}@{data.version}", {"builtin": name, "source": f"builtin:{name}"}, dict(data.rows)
    )


def _s3(uri: str) -> ResolvedSource:
    from kilter.store.objects import open_objects

    # The entity tag changes with the content, so that nothing has to be read to know it.
    listing = sorted((info.name, info.size, info.entity_tag) for info in open_objects(uri).list(""))
    if not listing:
        raise WrongInput(f"{uri} holds no objects")
    return ResolvedSource(f"s3:{uri}#{digest(listing)[:32]}", {"uri": uri, "source": uri})


def _hub(name: SourceName, facts: "Facts", *, online: bool) -> ResolvedSource:
    rows = facts.rows(name.source)
    commit = name.revision if name.pinned else None
    if commit is None and online:
        commit = hub_commit(name)
    location: dict[str, Any] = {"source": name.source, "commit": commit}
    suffix = f"/{name.config}" if name.config else ""
    if commit is not None:
        return ResolvedSource(f"hub:{name.source}@{commit}{suffix}", location, rows)
    branch = name.revision or "main"
    warning = f"{name.source} is not pinned ({branch}): `kilter lock` writes its commit where the hub can be reached"
    return ResolvedSource(f"unresolved:{name.source}@{branch}{suffix}", location, rows, (warning,))


def hub_commit(name: SourceName) -> str | None:
    """Ask the hub for the commit that a source's revision names now; None where the hub cannot be reached."""
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return None
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        return None
    api = HfApi()
    try:
        info = (
            api.model_info(name.source, revision=name.revision, timeout=5)
            if name.kind == "model"
            else api.dataset_info(name.source, revision=name.revision, timeout=5)
        )
    except HFValidationError as error:
        raise WrongInput(f"{name.source} is not a hub id: {error}") from error
    except HfHubHTTPError as error:
        raise WrongInput(f"the hub refuses {name.source} at {name.revision or 'main'}: {error}") from error
    except Exception as error:
        # What a dead network raises belongs to the hub client's own HTTP library, whose name changes with its versions.
        if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
            return None
        raise
    return info.sha


def local_files(path: Path) -> "dict[str, Path]":
    """Return the files of a folder (or one file) by their relative names, hidden ones left out, in order."""
    if path.is_file():
        return {path.name: path}
    found = {
        str(file.relative_to(path)): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    }
    if not found:
        raise WrongInput(f"{path} holds no files")
    return found


def content_of_folder(path: Path) -> str:
    """Return the content address of a folder or file: a digest of its files' relative names and SHA-256 digests."""
    return "sha256:" + digest({name: _sha256(file) for name, file in local_files(path).items()})


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            hasher.update(block)
    return hasher.hexdigest()


def _rows(path: Path) -> "Mapping[str, int]":
    """Count the rows of each split that the files' names tell."""
    from kilter.data.sources import count_rows, split_files, split_names

    rows: dict[str, int] = {}
    for split in split_names(path):
        try:
            rows[split] = count_rows(split_files(path, split))
        except KilterError:  # what is wrong with a split is said when it is read
            continue
    return rows
