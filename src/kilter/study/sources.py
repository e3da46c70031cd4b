"""Checks where a study's models and data come from: kinds of addresses, and what local files hold."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kilter.study.builtin import BUILTIN_CONTENTS, BUILTIN_PREFIX, BUILTIN_SPLITS
from kilter.study.local import DATA_SUFFIXES, MODEL_CONFIG, columns_of, count_rows, split_files
from kilter.study.problems import Complaint, FieldPath
from kilter.study.wording import listed, nearest, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kilter.study.specification import DataSource, ModelSource, Study

Kind = Literal["builtin", "s3", "local", "hub", "other"]

_BUCKET = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/.*)?$")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_FORMS = {
    "pairs": (("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("prompt", "completion", "label")),
    "conversations": (("messages",), ("prompt", "completion")),
}
_HINTS = {"pairs": "pref", "conversations": "sft", "text": "text"}
_LOCAL_BEGINNINGS = ("./", "../", "/", "~")
_S3_FIX = "write s3://bucket/prefix; a bucket's name has 3 to 63 lower-case letters, digits, `.` and `-`"


@dataclass(frozen=True)
class UsedData:
    """One place of a study that names data, and the splits that it reads there."""

    path: FieldPath
    data: "DataSource"

    @property
    def sources(self) -> "tuple[tuple[FieldPath, str], ...]":
        """Every source with its place; several are concatenated."""
        place = (*self.path, "source")
        if isinstance(self.data.source, str):
            return ((place, self.data.source),)
        return tuple(((*place, index), source) for index, source in enumerate(self.data.source))

    @property
    def content(self) -> str:
        """What the rows must be: pairs, conversations or text."""
        if self.path == ("data", "preference"):
            return "pairs"
        return "text" if "pretrain" in self.path else "conversations"


def kind_of(source: str, folder: Path) -> Kind:
    """Tell what an address is: a path begins with ./ ../ / or ~, exists or looks like a file's; else it is a hub id."""
    if source.startswith(BUILTIN_PREFIX):
        return "builtin"
    if source.startswith("s3://"):
        return "s3"
    if "://" in source:
        return "other"
    if source in (".", "..") or source.startswith(_LOCAL_BEGINNINGS):
        return "local"
    if source.endswith(DATA_SUFFIXES) or source.count("/") > 1 or (source and local_path(source, folder).exists()):
        return "local"
    return "hub"


def local_path(source: str, folder: Path) -> Path:
    """Return the path that a local address means: relative ones begin at the study file's folder."""
    try:
        return folder / Path(source).expanduser()
    except RuntimeError:
        return folder / source


def data_of(study: "Study") -> "Iterator[UsedData]":
    """Find every place of a study that names data."""
    yield UsedData(("data", "preference"), study.data.preference)
    if study.data.sft is not None:
        yield UsedData(("data", "sft"), study.data.sft)
    for name in ("base", "instruct"):
        model: ModelSource | None = getattr(study.models, name)
        if model is None or model.init is None:
            continue
        if model.init.pretrain is not None:
            yield UsedData(("models", name, "init", "pretrain", "data"), model.init.pretrain.data)
        if model.init.sft is not None:
            yield UsedData(("models", name, "init", "sft", "data"), model.init.sft.data)


def check_store(study: "Study") -> "Iterator[Complaint]":
    """The store is a folder or an S3 prefix."""
    yield from _check_address(("store",), study.store, "a store")


def check_sources(study: "Study", folder: Path) -> "Iterator[Complaint]":
    """Every address can be read by Kilter, and local files hold what is asked of them."""
    for name in ("base", "instruct"):
        model: ModelSource | None = getattr(study.models, name)
        if model is not None and model.source is not None:
            yield from _check_model(("models", name), model, model.source, folder)
    wrong: set[FieldPath] = set()
    for used in data_of(study):
        for complaint in _check_data(used, folder):
            wrong.add(used.path)
            yield complaint
    if study.data.mirror is not None:
        yield from _check_mirror(study.data.mirror.source, folder)
    # Rows of the wrong split or file are not worth counting.
    yield from (found for found in _check_sizes(study, folder) if _counted(found) not in wrong)
    yield from _check_strata(study, folder)


def rows_of(used: UsedData, folder: Path) -> int | None:
    """Count the rows that a place reads, where they are at hand; None where they are not."""
    counts = [_rows_of(source, used.data.split, folder) for _, source in used.sources]
    known = [count for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None


def _check_address(path: FieldPath, source: str, what: str) -> "Iterator[Complaint]":
    if not source.strip():
        yield Complaint(path, "nothing is written here", "write a folder or s3://bucket/prefix")
    elif source.startswith("s3:"):
        if not _BUCKET.match(source):
            yield Complaint(path, "this names no S3 bucket", _S3_FIX)
    elif "://" in source or source.startswith(BUILTIN_PREFIX):
        scheme = source.split(":", 1)[0]
        hint = " Write the plain path instead of file://." if scheme == "file" else ""
        yield Complaint(path, f"{what} cannot lie at `{scheme}:`", f"write a folder or s3://bucket/prefix.{hint}")


def _check_mirror(source: str, folder: Path) -> "Iterator[Complaint]":
    path: FieldPath = ("data", "mirror", "source")
    found = list(_check_address(path, source, "a mirror"))
    yield from found
    if not found and not source.startswith("s3:") and not local_path(source, folder).is_dir():
        yield Complaint(path, "this folder does not exist", _where(source, folder))


def _check_model(path: FieldPath, model: "ModelSource", source: str, folder: Path) -> "Iterator[Complaint]":
    place = (*path, "source")
    kind = kind_of(source, folder)
    if kind == "builtin":
        fix = "make a small one with `init:`, or name a hub id"
        yield Complaint(place, "there are no built-in models, only data sets", fix)
    yield from _check_remote(place, source, kind, "org/model, a folder or s3://bucket/prefix")
    if kind == "local":
        yield from _check_model_folder(place, source, folder)
    if model.revision is not None and kind != "hub":
        fix = "remove it: other sources are named by their content"
        yield Complaint((*path, "revision"), "only a hub id has a revision", fix)


def _check_model_folder(place: FieldPath, source: str, folder: Path) -> "Iterator[Complaint]":
    where = local_path(source, folder)
    if not where.is_dir():
        reason = "this is a file, not a model's folder" if where.exists() else "this folder does not exist"
        yield Complaint(place, reason, _where(source, folder))
    elif not (where / MODEL_CONFIG).is_file():
        yield Complaint(place, f"this folder holds no {MODEL_CONFIG}", "name the folder that `save_pretrained` wrote")
    elif not any(where.glob("*.safetensors")):
        fix = "save the model again with safe_serialization; pickled weights are not read"
        yield Complaint(place, "this folder holds no *.safetensors", fix)


def _check_data(used: UsedData, folder: Path) -> "Iterator[Complaint]":
    if not used.sources:
        yield Complaint((*used.path, "source"), "the list of sources is empty", "name at least one")
    seen: set[str] = set()
    kinds = {kind_of(source, folder) for _, source in used.sources}
    for place, source in used.sources:
        if source in seen:
            yield Complaint(place, "this source is named twice", "name it once")
        seen.add(source)
        yield from _check_data_source(place, source, used, folder)
    for field in ("revision", "config"):
        if getattr(used.data, field) is not None and kinds and "hub" not in kinds:
            fix = "remove it: other sources are named by their content"
            yield Complaint((*used.path, field), f"only a hub id has a {field}", fix)


def _check_data_source(place: FieldPath, source: str, used: UsedData, folder: Path) -> "Iterator[Complaint]":
    kind = kind_of(source, folder)
    yield from _check_remote(place, source, kind, "org/name, a folder or file, s3://bucket/prefix or builtin:NAME")
    if kind == "builtin":
        name = source.removeprefix(BUILTIN_PREFIX)
        if name not in BUILTIN_SPLITS:
            fix = suggestion(name, BUILTIN_SPLITS, "built-in data sets")
            yield Complaint(place, f"there is no built-in data set `{name}`", fix)
            return
        yield from _check_splits(used, source, BUILTIN_SPLITS[name], BUILTIN_CONTENTS[name])
    elif kind == "local":
        where = local_path(source, folder)
        if not where.exists():
            yield Complaint(place, "this file or folder does not exist", _where(source, folder))
            return
        splits = split_files(where)
        if not splits:
            fix = f"data files end in {listed(DATA_SUFFIXES, 'or')}"
            yield Complaint(place, "no Parquet or JSONL file is here", fix)
            return
        try:
            count_rows(file for files in splits.values() for file in files)
        except (OSError, ValueError) as error:
            yield Complaint(place, f"a data file cannot be read: {_first_line(error)}", "write the file anew")
            return
        yield from _check_splits(used, source, splits, {})
        yield from _check_columns(place, source, used, splits)


def _check_remote(place: FieldPath, source: str, kind: Kind, possible: str) -> "Iterator[Complaint]":
    if kind == "other":
        yield Complaint(place, f"Kilter does not read `{source.split('://', 1)[0]}://` addresses", f"write {possible}")
    elif kind == "s3" and not _BUCKET.match(source):
        yield Complaint(place, "this names no S3 bucket", _S3_FIX)
    elif kind == "hub" and not _HUB_ID.match(source):
        reason = "nothing is written here" if not source.strip() else "this is neither an existing path nor a hub id"
        yield Complaint(place, reason, f"write {possible}; a local path begins with ./, ../, / or ~")


def _check_splits(
    used: UsedData, source: str, splits: "Iterable[str]", contents: "Mapping[str, str]"
) -> "Iterator[Complaint]":
    """The splits are there, and hold rows of the right kind as far as `contents` says what they hold."""
    # Pretraining writes conversations out as text.
    right = {used.content, "conversations"} if used.content == "text" else {used.content}
    names = sorted(split for split in splits if contents.get(split, used.content) in right)
    for field in ("split", "test_split"):
        wanted = getattr(used.data, field, None)
        if wanted is None or wanted in names:
            continue
        reason = f"`{source}` has no split `{wanted}`"
        if wanted in contents:
            reason = f"the split `{wanted}` of `{source}` holds {contents[wanted]}, not {used.content}"
        yield Complaint((*used.path, field), reason, _right_split(used, field, wanted, names))


def _right_split(used: UsedData, field: str, wanted: str, names: list[str]) -> str:
    if field == "test_split":
        if len(names) < 2:
            return "remove it: `holdout` sets a share of the rows aside instead"
        names = [name for name in names if name != used.data.split]
    likeliest = nearest(wanted, names) or max(names, key=lambda name: _likeliness(used, field, name))
    others = f"; the splits found are {listed(names)}" if len(names) > 1 else ""
    return f"write `{field}: {likeliest}`{others}"


def _likeliness(used: UsedData, field: str, name: str) -> tuple[bool, bool]:
    """Tell how well a split's name suits a use: the kind of rows first, then whether it is for training."""
    hint = "instruct" if "init" in used.path and "instruct" in name else _HINTS[used.content]
    return hint in name, ("test" if field == "test_split" else "train") in name


def _check_columns(
    place: FieldPath, source: str, used: UsedData, splits: "Mapping[str, tuple[Path, ...]]"
) -> "Iterator[Complaint]":
    """Every file that is read has the columns of one of the forms that are understood."""
    forms = _FORMS.get(used.content, ())
    wanted = dict.fromkeys([used.data.split, getattr(used.data, "test_split", None)])
    for file in (file for split in wanted if split is not None for file in splits.get(split, ())):
        columns = columns_of(file)
        if columns is None or not forms or any(set(form) <= set(columns) for form in forms):
            continue
        found = f"`{source}` ({file.name}) has {'the columns ' if columns else 'no columns'}{listed(columns)}"
        understood = "; ".join(listed(form) for form in forms)
        yield Complaint(place, f"{found}, which make no {used.content}", f"rename the columns to one of: {understood}")
        return


def _counted(complaint: Complaint) -> FieldPath:
    """The data whose rows a complaint about sizes has counted."""
    return ("data", "preference") if complaint.path[0] == "sizes" else ("data", "sft")


def _check_sizes(study: "Study", folder: Path) -> "Iterator[Complaint]":
    rows = rows_of(UsedData(("data", "preference"), study.data.preference), folder)
    if rows is not None:
        for index, size in enumerate(study.sizes):
            if size != "all" and size > rows:
                reason = f"data.preference holds only {rows} pairs"
                yield Complaint(("sizes", index), reason, "write a smaller size, or `all`")
    if study.data.sft is None or study.data.sft.size == "all":
        return
    rows = rows_of(UsedData(("data", "sft"), study.data.sft), folder)
    if rows is not None and study.data.sft.size > rows:
        reason = f"data.sft holds only {rows} conversations"
        yield Complaint(("data", "sft", "size"), reason, "write a smaller size, or `all`")


def _check_strata(study: "Study", folder: Path) -> "Iterator[Complaint]":
    wanted = study.data.preference.strata
    if wanted is None:
        return
    for _, source in UsedData(("data", "preference"), study.data.preference).sources:
        for file in _files(source, study.data.preference.split, folder) or ():
            try:
                columns = columns_of(file)
            except (OSError, ValueError):
                continue
            if columns is not None and wanted not in columns:
                fix = suggestion(wanted, columns, "columns")
                yield Complaint(("data", "preference", "strata"), f"`{source}` has no column `{wanted}`", fix)
                return


def _files(source: str, split: str, folder: Path) -> tuple[Path, ...] | None:
    """The files of a local source's split; None where it is not local or lacks the split."""
    where = local_path(source, folder)
    if kind_of(source, folder) != "local" or not where.exists():
        return None
    return split_files(where).get(split)


def _rows_of(source: str, split: str, folder: Path) -> int | None:
    if kind_of(source, folder) == "builtin":
        return BUILTIN_SPLITS.get(source.removeprefix(BUILTIN_PREFIX), {}).get(split)
    files = _files(source, split, folder)
    if files is None:
        return None
    try:
        return count_rows(files)
    except (OSError, ValueError):
        return None


def _where(source: str, folder: Path) -> str:
    where = local_path(source, folder)
    if where.parent.is_dir():
        names = [entry.name for entry in where.parent.iterdir() if not entry.name.startswith(".")]
        if (near := nearest(where.name, names)) is not None:
            return f"did you mean `{near}`? It was looked for at {where}"
    return f"it was looked for at {where}; relative paths begin at the study file's folder"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
