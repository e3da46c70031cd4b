"""What a benchmark needs before it can run, read from its definition without importing the harness.

So a study whose benchmarks cannot run is refused before anything is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kilter.errors import WrongInput
from kilter.evaluation.index import own_tasks, stock_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

Definition = Mapping[str, Any]

_FASTEST_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class DataSplit:
    """A split of a benchmark's data, as a task names it."""

    data_set: str
    configuration: str | None
    split: str


class _Loader(_FASTEST_LOADER):  # type: ignore[valid-type, misc]
    """Reads a definition without importing the functions that it names."""


_Loader.add_constructor("!function", lambda _, node: str(node.value))


def examples_of(task: str, own: int | None, asked: int | None) -> int:
    """Return how many worked examples a task gets: those asked for, or its own number.

    Raises:
        WrongInput: the task is defined with none, which the harness does not let change.
    """
    if asked is None:
        return own or 0
    if own == 0 and asked != 0:
        raise WrongInput(
            f"task {task} is defined with 0 worked examples, which the harness does not let change: "
            f"set num_fewshot to 0 or leave it out (it is {asked})"
        )
    return asked


def refuse_generated_code(name: str, definition: Definition) -> None:
    """Refuse a task that executes what the model wrote.

    Raises:
        WrongInput: it does.
    """
    if definition.get("unsafe_code"):
        raise WrongInput(f"benchmark {name} executes code that the model wrote; Kilter does not run such tasks")


def evaluated_split(definition: Definition) -> str | None:
    """Return the split that is evaluated; None where the definition names none."""
    return definition.get("test_split") or definition.get("validation_split")


def example_split(definition: Definition, examples: int) -> str | None:
    """Return the split that the harness draws worked examples from; None where it needs none."""
    if not examples:
        return None
    fewshot = definition.get("fewshot_config") or {}
    if split := definition.get("fewshot_split") or fewshot.get("split"):
        return str(split)
    if fewshot.get("samples") is not None:
        return None
    return definition.get("training_split") or definition.get("validation_split") or definition.get("test_split")


def needed_splits(name: str, num_fewshot: int | None) -> tuple[DataSplit, ...]:
    """Return the data that a task, group or tag reads with so many worked examples (None: each task's own number).

    Tasks that are Python classes, or that read data in their own way, are left out: they say what they lack when they
    run. So is everything where the harness is not installed.

    Raises:
        WrongInput: a task executes generated code, or does not allow this number of examples.
    """
    found: dict[DataSplit, None] = {}
    for task, definition in _definitions(name):
        refuse_generated_code(task, definition)
        examples = examples_of(task, definition.get("num_fewshot"), num_fewshot)
        own_way = {"class", "custom_dataset"} & definition.keys() or "data_files" in (
            definition.get("dataset_kwargs") or {}
        )
        if own_way or not isinstance(definition.get("dataset_path"), str):
            continue
        for split in (evaluated_split(definition), example_split(definition, examples)):
            if split is not None:
                found[DataSplit(definition["dataset_path"], definition.get("dataset_name"), split)] = None
    return tuple(found)


def _definitions(name: str, overrides: "Definition | None" = None) -> "Iterator[tuple[str, Definition]]":
    """Yield every task that a name stands for, with its whole definition."""
    path = own_tasks().get(name)
    if path is None and (file := stock_tasks().files.get(name)) is not None and (stock := _stock_folder()) is not None:
        path = stock / file
    if path is None:
        for member in stock_tasks().tags.get(name, ()):
            yield from _definitions(member, overrides)
        return
    definition = {**_read(path), **(overrides or {})}
    members = definition.get("task")
    if isinstance(members, list):
        for member in members:
            yield from _member(member)
    else:
        yield name, definition


def _member(member: Any) -> "Iterator[tuple[str, Definition]]":
    if isinstance(member, str):
        yield from _definitions(member)
    elif isinstance(member.get("task"), list):
        for inner in member["task"]:
            yield from _member(inner)
    else:
        name = str(member.get("group") or member.get("task"))
        yield from _definitions(name, {key: value for key, value in member.items() if key not in ("group", "task")})


def _stock_folder() -> Path | None:
    harness = find_spec("lm_eval")
    return None if harness is None or harness.origin is None else Path(harness.origin).parent / "tasks"


def _read(path: Path) -> dict[str, Any]:
    definition: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    included = definition.pop("include", [])
    merged: dict[str, Any] = {}
    for file in included if isinstance(included, list) else [included]:
        merged |= _read(path.parent / file)
    merged.pop("task_list", None)
    return merged | definition
