"""Which tasks there are, by name, without importing the harness: the index that Kilter ships, and how it is made.

Scanning the harness's 14,000 task files takes 8–15 s in every process. The index says where each one lies, and is valid
for the one version of the harness that Kilter is pinned to. `python -m kilter.evaluation.index` writes it again.
"""

import difflib
import functools
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX_FILE = Path(__file__).with_name("task_index.json")
OWN_TASKS = Path(__file__).with_name("tasks")


@dataclass(frozen=True)
class TaskIndex:
    """The harness's own tasks."""

    harness_version: str
    files: "Mapping[str, str]"
    """Task or group name → its YAML file, relative to the harness's folder of tasks."""
    tags: "Mapping[str, tuple[str, ...]]"
    """Tag → the names of its tasks, sorted."""


@functools.cache
def stock_tasks() -> TaskIndex:
    """Return the index of the harness's own tasks, read once a process."""
    return decode(json.loads(INDEX_FILE.read_text(encoding="utf-8")))


@functools.cache
def own_tasks() -> "Mapping[str, Path]":
    """Return the tasks and groups that Kilter ships: name → YAML file."""
    names: dict[str, Path] = {}
    for path in sorted(OWN_TASKS.rglob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=_DefinitionLoader)  # noqa: S506 - a SafeLoader
        name = definition.get("group") or definition.get("task")
        if isinstance(name, str):
            names[name] = path
    return names


def task_known(name: str) -> bool:
    """Tell whether a task, group or tag of this name exists."""
    return name in own_tasks() or name in stock_tasks().files or name in stock_tasks().tags


def suggest(name: str, count: int = 3) -> list[str]:
    """Return the names of existing tasks that look most like `name`, the likeliest first."""
    names = [*own_tasks(), *stock_tasks().files, *stock_tasks().tags]
    return difflib.get_close_matches(name, names, n=count, cutoff=0.6)


def require_task(name: str) -> None:
    """Check that a task exists.

    Raises:
        WrongInput: it does not; the message holds the nearest names.
    """
    if task_known(name):
        return
    if name.endswith((".yaml", ".yml")) or "/" in name:
        raise WrongInput(
            f"benchmark {name!r} is a path: task files of a study are not read, because they may run code; "
            "give the name of a task of lm-evaluation-harness or of Kilter"
        )
    near = suggest(name)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise WrongInput(f"no benchmark is named {name!r} in lm-evaluation-harness {stock_tasks().harness_version}{hint}")


def scan() -> TaskIndex:
    """Make the index anew from the installed harness (8–15 s)."""
    from importlib.metadata import version

    import lm_eval
    from lm_eval.tasks._index import Kind
    from lm_eval.tasks._index import TaskIndex as HarnessIndex

    root = Path(lm_eval.__file__).parent / "tasks"
    entries = HarnessIndex.build([root])
    return TaskIndex(
        harness_version=version("lm-eval"),
        files={
            name: entry.yaml_path.relative_to(root).as_posix()
            for name, entry in entries.items()
            if entry.yaml_path is not None
        },
        tags={name: tuple(sorted(entry.tags)) for name, entry in entries.items() if entry.kind is Kind.TAG},
    )


def encode(index: TaskIndex) -> dict[str, Any]:
    """Return the index as compact JSON data: folder → file stem → [name (0: the stem), numbers of its tags …]."""
    tags = sorted(index.tags)
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, tag in enumerate(tags):
        for member in index.tags[tag]:
            numbers[member].append(number)
    folders: dict[str, dict[str, list[str | int]]] = defaultdict(dict)
    for name, file in index.files.items():
        path = PurePosixPath(file)
        folders[str(path.parent)][path.stem] = [0 if name == path.stem else name, *numbers[name]]
    return {"harness_version": index.harness_version, "tags": tags, "folders": dict(folders)}


def decode(data: "Mapping[str, Any]") -> TaskIndex:
    """Return the index from what `encode` made."""
    members: dict[str, list[str]] = {tag: [] for tag in data["tags"]}
    files: dict[str, str] = {}
    for folder, stems in data["folders"].items():
        for stem, (given, *numbers) in stems.items():
            name = given or stem
            files[name] = f"{folder}/{stem}.yaml"
            for number in numbers:
                members[data["tags"][number]].append(name)
    return TaskIndex(data["harness_version"], files, {tag: tuple(sorted(names)) for tag, names in members.items()})


def write(index: TaskIndex, path: Path) -> None:
    """Write the index with one folder a line, so that a new version of the harness shows as a readable change."""
    data = encode(index)
    lines = [
        f"{json.dumps(folder)}:{json.dumps(data['folders'][folder], separators=(',', ':'), sort_keys=True)}"
        for folder in sorted(data["folders"])
    ]
    head = (
        f'{{"harness_version":{json.dumps(data["harness_version"])}',
        f'"tags":{json.dumps(data["tags"], separators=(",", ":"))}',
        '"folders":{',
    )
    path.write_text(",\n".join(head) + "\n" + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


class _DefinitionLoader(yaml.SafeLoader):
    """Reads a task's YAML without importing the functions that it names."""


_DefinitionLoader.add_constructor("!function", lambda _, node: str(node.value))


if __name__ == "__main__":
    write(scan(), INDEX_FILE)
    sys.stderr.write(
        f"wrote {INDEX_FILE.name}: {len(decode(json.loads(INDEX_FILE.read_text())).files)} tasks and groups\n"
    )
