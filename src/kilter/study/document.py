"""Reads YAML into plain data that remembers the line of every field, with YAML 1.2's plain scalars.

PyYAML follows YAML 1.1, where `1e-5` is text, `no` is false and `2026-11-23` is a date. A study means what YAML 1.2 and
every editor with a schema say it means.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kilter.study.problems import Complaint, FieldPath, Problem, StudyProblems, path_text

_MAX_NODES = 20_000
_MAX_DIGITS = 18
_SHOWN_CHARACTERS = 80
_BEGIN = "`kilter init` writes a study to start from"
_ENDLESS = "aliases repeat themselves without end"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class _Loader(yaml.SafeLoader):
    """Composes nodes; plain scalars are resolved by the YAML 1.2 core schema, with underscores in whole numbers."""


_Loader.yaml_implicit_resolvers = {}
_INTEGER = re.compile(r"^[-+]?[0-9][0-9_]*$")
_FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
for _tag, _pattern, _first in (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^(?:<<)$"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


@dataclass(frozen=True)
class Document:
    """A study file as plain data, with the line of every field and what was already wrong with the file."""

    data: dict[str, Any]
    lines: dict[FieldPath, int]
    texts: dict[FieldPath, str] = field(default_factory=dict)
    """Numbers as they are written."""
    complaints: tuple[Complaint, ...] = ()

    def problem(self, complaint: Complaint) -> Problem:
        """Complete a complaint with the value and the line of the file."""
        path = self._as_written(complaint.path)
        present, value = self._value(path)
        return Problem(
            path=path_text(path),
            value=self.texts.get(path, shown(value)) if present and path else None,
            reason=complaint.reason,
            fix=complaint.fix,
            line=self._line(path),
        )

    def _as_written(self, path: FieldPath) -> FieldPath:
        """Shorten the place inside a method or benchmark that is written as a name alone."""
        present, value = self._value(path[:-1])
        return path[:-1] if present and isinstance(value, str) else path

    def _value(self, path: FieldPath) -> tuple[bool, Any]:
        value: Any = self.data
        for part in path:
            if not has(value, part):
                return False, None
            value = value[part]
        return True, value

    def _line(self, path: FieldPath) -> int | None:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def has(value: Any, part: str | int) -> bool:
    """Tell whether a mapping has a field, or a list a position."""
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def shown(value: Any) -> str:
    """Write a value as one short line of text, without the credentials that an address may hold."""
    if value is None:
        return "(empty)"
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    text = _CREDENTIALS.sub("…@", text.removesuffix("\n...\n").strip())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def read_document(text: str, origin: str) -> Document:
    """Read the text of a study file.

    Raises:
        StudyProblems: the text is not YAML, or not a mapping of field names to values.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise StudyProblems(origin, [_syntax(error, text)]) from error
    except yaml.YAMLError as error:
        reason = f"the file is not YAML: {str(error).splitlines()[0]}"
        raise StudyProblems(origin, [Problem("", None, reason, "save it as plain UTF-8 text")]) from error
    if node is None:
        raise StudyProblems(origin, [Problem("", None, "the file is empty", _BEGIN)])
    if not isinstance(node, yaml.MappingNode):
        reason = "a study is a mapping of field names to values, such as `name: my-study`"
        raise StudyProblems(origin, [Problem("", None, reason, _BEGIN, 1)])
    reader = _Reader()
    data = reader.read(node, ())
    return Document(data, reader.lines, reader.texts, tuple(reader.complaints))


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    lines = text.splitlines()
    written = lines[mark.line].strip() if mark and mark.line < len(lines) else ""
    reason = "this is not YAML: " + (error.problem or error.context or "it cannot be read")
    if error.context and error.context_mark and error.problem:
        reason += f" ({error.context} that begins in line {error.context_mark.line + 1})"
    if mark and mark.line < len(lines) and "\t" in lines[mark.line]:
        fix = "indent with spaces; YAML allows no tabs"
    elif "single document" in str(error.context):
        fix = "write one study a file, without a second `---`"
    else:
        fix = "check quotes, brackets, colons and indentation in this line and the one before"
    return Problem("", shown(written) if written else None, reason, fix, line)


@dataclass
class _Reader:
    """Turns composed nodes into data; its state is the lines and complaints met on the way."""

    lines: dict[FieldPath, int] = field(default_factory=dict)
    texts: dict[FieldPath, str] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)
    nodes: int = 0
    open: set[int] = field(default_factory=set)
    flattened: set[int] = field(default_factory=set)
    constructor: Any = field(default_factory=lambda: _Loader(""))

    def read(self, node: yaml.Node, path: FieldPath) -> Any:
        self.nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self.nodes > _MAX_NODES or id(node) in self.open:
            if not any(complaint.reason == _ENDLESS for complaint in self.complaints):
                self._complain(path, _ENDLESS, "write the values out instead of using `*` aliases")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        if id(node) not in self.flattened:
            self._refuse_duplicates(node, path)
        self.flattened.add(id(node))
        try:
            self.constructor.flatten_mapping(node)
        except (yaml.YAMLError, RecursionError):
            fix = "merge a mapping, or write its fields out"
            self._complain(path, "`<<` merges something that is not a mapping", fix)
            return {}
        found: dict[str, Any] = {}
        # A mapping's own fields win over merged ones, which were written before the mapping begins.
        own_first = sorted(node.value, key=lambda pair: pair[0].start_mark.index < node.start_mark.index)
        for key, value in own_first:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(path, "a field name must be text", "write a name before the colon")
                continue
            name = str(key.value)
            if name in found:
                continue
            self.lines[(*path, name)] = key.start_mark.line + 1
            found[name] = self.read(value, (*path, name))
        return found

    def _refuse_duplicates(self, node: yaml.MappingNode, path: FieldPath) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                reason = f"the field is written twice: in line {lines[key.value]} and in line {line}"
                self._complain((*path, key.value), reason, "keep one of the two")
            lines.setdefault(key.value, line)

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text: str = node.value
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int" and _INTEGER.match(text) and len(text) <= _MAX_DIGITS:
            return int(text.replace("_", ""))
        if kind == "float" and _FLOAT.match(text):
            self.texts[path] = text
            # Infinity and NaN are spelt `.inf` and `.nan`; a number that overflows is refused with them.
            number = float(text.replace("_", "")) if text[-1] in "0123456789." and text != "." else math.inf
            if math.isfinite(number):
                return number
            self._complain(path, "a study holds finite numbers only", "write a number")
            return None
        if kind == "int":
            fix = "write a smaller number, or put it in quotes if it is text"
            self._complain(path, f"a whole number has at most {_MAX_DIGITS} digits", fix)
            return None
        fix = "write plain text, numbers, true, false, lists and mappings"
        self._complain(path, f"the tag {node.tag} is not known here", fix)
        return None

    def _complain(self, path: FieldPath, reason: str, fix: str) -> None:
        self.complaints.append(Complaint(path, reason, fix))
