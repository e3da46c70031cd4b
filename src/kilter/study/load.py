"""Reads a study file, and finds everything that is wrong with it in one go."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kilter.study.checks import check_study
from kilter.study.document import Document, read_document
from kilter.study.facts import load_facts
from kilter.study.problems import Complaint, FieldPath, Problem, StudyProblems, path_text
from kilter.study.sources import check_sources, check_store, local_path
from kilter.study.specification import MirrorSource, Study
from kilter.study.suites import expand_suites
from kilter.study.translation import coerced, complaints_of
from kilter.study.wording import listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_ADDRESSES = ("source", "store", "facts")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_ROUNDS = 8

# What stands in for a required field that is wrong, so that the rest of the study is still checked. Nothing about a
# stand-in is ever reported: complaints near a place that was already complained about are dropped.
_STAND_IN_DATA: dict[str, Any] = {"source": "unknown/unknown"}
_STAND_INS: dict[FieldPath, Any] = {
    ("name",): "unnamed",
    ("models",): {},
    ("data",): {"preference": _STAND_IN_DATA},
    ("data", "preference"): _STAND_IN_DATA,
    ("methods",): [],
    ("benchmarks",): [],
}


def load_study(path: Path, environment: "Mapping[str, str]") -> Study:
    """Read a study file.

    Relative paths in `source` and `facts` begin at the file's folder; a relative `store` begins where Kilter runs.
    Sources stay as they are written, but the mirror and the facts file become absolute, and suites become benchmarks.

    Args:
        path: The YAML file.
        environment: Where `${NAME}` in a `source`, `store` or `facts` is looked up.

    Raises:
        StudyProblems: everything that is wrong with the study.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StudyProblems(str(path), [Problem("", None, "there is no such file", _other_file(path))]) from error
    except IsADirectoryError as error:
        fix = "name the YAML file itself"
        raise StudyProblems(str(path), [Problem("", None, "this is a folder, not a file", fix)]) from error
    except (OSError, UnicodeDecodeError) as error:
        fix = "check that it is a text file in UTF-8 that you may read"
        raise StudyProblems(str(path), [Problem("", None, f"the file cannot be read: {error}", fix)]) from error
    return parse_study(text, str(path), environment, path.absolute().parent)


def parse_study(text: str, origin: str, environment: "Mapping[str, str]", folder: Path | None = None) -> Study:
    """Read the text of a study.

    Args:
        text: YAML.
        origin: What messages call the text: a file's name.
        environment: Where `${NAME}` in a `source`, `store` or `facts` is looked up.
        folder: Where relative paths begin; by default the current folder.

    Raises:
        StudyProblems: everything that is wrong with the study.
    """
    folder = folder or Path.cwd()
    document = read_document(text, origin)
    reading = _Reading(document, environment)
    study = reading.study()
    if study is not None:
        reading.report(check_study(study))
        reading.report(check_store(study))
        reading.report(check_sources(study, folder))
        reading.report(_check_facts(study, folder))
    if study is None or reading.complaints:
        raise StudyProblems(origin, map(document.problem, dict.fromkeys(reading.complaints)))
    return _completed(study, folder)


@dataclass
class _Reading:
    """One reading of a document: what was found wrong so far, and what is left of the study without it."""

    document: Document
    environment: "Mapping[str, str]"
    complaints: list[Complaint] = field(default_factory=list)
    removed: set[FieldPath] = field(default_factory=set)
    unset: dict[str, list[FieldPath]] = field(default_factory=dict)
    """For each variable that is not set, the places that name it."""
    kept: dict[FieldPath, list[int]] = field(default_factory=dict)
    """For each list, the written positions of what is left of it."""

    def study(self) -> Study | None:
        """Return the study, without the parts that are wrong in themselves; None where too little is left."""
        self.complaints.extend(self.document.complaints)
        self.removed.update(complaint.path for complaint in self.complaints)
        written = self._with_environment(self.document.data, ())
        self._complain_of_unset()
        for _ in range(_ROUNDS):
            self.kept.clear()
            data = self._remainder(written, ())
            try:
                study = Study.model_validate(data)
            except ValidationError as error:
                found = complaints_of(error.errors(include_url=False), data)
                before = len(self.removed)
                self.removed.update(self._removable(complaint.path, data) for complaint in found)
                self.report(found)
                if len(self.removed) == before:
                    return None
            else:
                self.report(list(coerced(data, study.model_dump())))
                return study
        return None

    def report(self, found: "Iterable[Complaint]") -> None:
        """Add complaints about places that were not yet complained about."""
        known = [complaint.path for complaint in self.complaints]
        known += [path for places in self.unset.values() for path in places]
        for complaint in found:
            path = self._written(complaint.path)
            if not any(_related(path, other) for other in known):
                self.complaints.append(Complaint(path, complaint.reason, complaint.fix))

    def _with_environment(self, value: Any, path: FieldPath) -> Any:
        if isinstance(value, dict):
            return {name: self._with_environment(inner, (*path, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._with_environment(inner, (*path, index)) for index, inner in enumerate(value)]
        names = [part for part in path if isinstance(part, str)]
        if not isinstance(value, str) or not names or names[-1] not in _ADDRESSES:
            return value
        for name in _VARIABLE.findall(value):
            if not _VARIABLE_NAME.match(name):
                fix = "write `${NAME}` with letters, digits and `_` only"
                self._refuse(path, f"`${{{name}}}` names no variable", fix)
            elif not self.environment.get(name):
                self.unset.setdefault(name, []).append(path)
                self.removed.add(path)
        return _VARIABLE.sub(lambda match: self.environment.get(match[1], match[0]), value)

    def _complain_of_unset(self) -> None:
        """Say once of each variable that it is not set, however many places name it."""
        for name, places in self.unset.items():
            first, *others = dict.fromkeys(places)
            near = nearest(name, self.environment, 0.85)
            hint = f" (did you mean `{near}`, which is set?)" if near else ""
            also = f"; {listed(map(path_text, others))} {'need' if others[1:] else 'needs'} it too" if others else ""
            reason = f"the environment variable {name} is not set{hint}{also}"
            self.complaints.append(Complaint(first, reason, f"set it, for example `export {name}=/path/to/data`"))

    def _refuse(self, path: FieldPath, reason: str, fix: str) -> None:
        self.complaints.append(Complaint(path, reason, fix))
        self.removed.add(path)

    def _remainder(self, value: Any, path: FieldPath) -> Any:
        """Return what is left of the written data, with stand-ins for what a study cannot do without."""
        if isinstance(value, dict):
            left = {
                name: self._remainder(inner, (*path, name))
                for name, inner in value.items()
                if (*path, name) not in self.removed
            }
            for place, stand_in in _STAND_INS.items():
                if place[:-1] == path and place in self.removed:
                    left.setdefault(str(place[-1]), stand_in)
            return left
        if isinstance(value, list):
            self.kept[path] = [index for index in range(len(value)) if (*path, index) not in self.removed]
            return [self._remainder(value[index], (*path, index)) for index in self.kept[path]]
        return value

    def _removable(self, path: FieldPath, data: Any) -> FieldPath:
        """Return what to leave out because of an error: the field, or for a missing one that which lacks it."""
        value = data
        for part in path:
            if isinstance(value, dict) and part not in value:
                return self._written(path if path in _STAND_INS else path[:-1])
            value = value[part]
        return self._written(path)

    def _written(self, path: FieldPath) -> FieldPath:
        """Turn a place in what is left into the place in the file."""
        written: FieldPath = ()
        for part in path:
            positions = self.kept.get(written)
            if isinstance(part, int) and positions is not None and part < len(positions):
                part = positions[part]
            written = (*written, part)
        return written


def _related(one: FieldPath, other: FieldPath) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _check_facts(study: Study, folder: Path) -> "Iterator[Complaint]":
    if study.facts is None:
        return
    try:
        load_facts(local_path(study.facts, folder))
    except StudyProblems as problems:
        first = problems.problems[0]
        place = f"{first.path}: " if first.path else ""
        yield Complaint(("facts",), f"{place}{first.reason}", first.fix)


def _completed(study: Study, folder: Path) -> Study:
    data = study.data
    if data.mirror is not None and not data.mirror.source.startswith("s3://"):
        mirror = MirrorSource(source=str(local_path(data.mirror.source, folder).resolve()))
        data = data.model_copy(update={"mirror": mirror})
    facts = None if study.facts is None else str(local_path(study.facts, folder).resolve())
    return study.model_copy(update={"benchmarks": expand_suites(study.benchmarks), "data": data, "facts": facts})


def _other_file(path: Path) -> str:
    if path.parent.is_dir():
        near = nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")])
        if near is not None:
            return f"did you mean {path.parent / near}?"
    return "`kilter init` writes a study to start from"
