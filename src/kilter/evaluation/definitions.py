"""From a name to the harness's task objects, without scanning its 14,000 files, on data of the hub or a mirror."""

import functools
import inspect
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import huggingface_hub.constants
import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._index import TaskIndex as HarnessIndex
from lm_eval.tasks._yaml_loader import load_yaml

from kilter.canonical import digest
from kilter.errors import KilterError, StageFailed
from kilter.evaluation.index import own_tasks, require_task, stock_tasks
from kilter.evaluation.requirements import examples_of, refuse_generated_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kilter.data.mirror import Mirror

STOCK_FOLDER = Path(lm_eval.tasks.__file__).parent

# These do not choose which data are read, so a mirror may ignore them.
_HARMLESS_DATASET_OPTIONS = {"trust_remote_code", "revision", "verification_mode", "streaming"}


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark ready to run: one task, or a group's or tag's tasks."""

    name: str
    tasks: dict[str, Task]
    groups: dict[str, Group]


def load_benchmark(name: str, num_fewshot: int | None, mirror: "Mirror | None") -> LoadedBenchmark:
    """Make the harness's objects for a task, group or tag, with its documents.

    Args:
        name: The stock name, or that of a task of Kilter's own.
        num_fewshot: Worked examples before the question; None keeps each task's own number.
        mirror: Where the data lie; None asks the hub.

    Raises:
        WrongInput: there is no such task, it executes generated code, or it does not allow this number of examples.
        StageFailed: its data are not at hand, or the harness cannot make it.
    """
    require_task(name)
    entries = _entries(name)
    factory = _Factory(num_fewshot, mirror)
    try:
        built = factory.build(entries[name], overrides=None, registry=entries)
    except KilterError:
        raise
    except Exception as error:
        place = "the hub" if mirror is None else f"the mirror {mirror.source}"
        hint = "; data.mirror names a folder with the data for use without a network" if mirror is None else ""
        raise StageFailed(
            f"benchmark {name} cannot be made with data from {place}: {type(error).__name__}: {error}{hint}"
        ) from error
    items = built if isinstance(built, list) else [built]
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    for item in items:
        if isinstance(item, Group):
            groups[item.name] = item
            groups.update({group.name: group for group in item.get_all_groups()})
            tasks.update({task.task_name: task for task in item.get_all_tasks()})
        else:
            tasks[item.task_name] = item
    if not tasks:
        raise StageFailed(f"benchmark {name} has no tasks")
    return LoadedBenchmark(name, tasks, groups)


def definition_digest(task: Task) -> str:
    """Return a digest of all that defines a task: its resolved YAML and the source of the functions it names.

    A task keeps its version number through some changes of its prompt; this digest does not.
    """
    definition = _described(vars(task.config))
    for told_elsewhere in ("metadata", "num_fewshot"):
        definition.pop(told_elsewhere, None)
    return digest(definition)


@contextmanager
def no_hub(active: bool) -> "Iterator[None]":
    """Make every look at the hub fail at once for a while, instead of after retries.

    The libraries read HF_HUB_OFFLINE when they are imported, which a forked process has long done.
    """
    holders: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if active:
            for holder in holders:
                holder.HF_HUB_OFFLINE = True
        yield
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value
        if not bars:
            datasets.enable_progress_bars()


class MirroredTask(ConfigurableTask):  # type: ignore[misc]
    """A task whose documents come from a mirror folder: only the splits that it needs at this number of examples."""

    def __init__(self, config: dict[str, Any], mirror: "Mirror") -> None:
        self._mirror = mirror
        if callable(process := config.get("process_docs")):
            config = {**config, "process_docs": _once_per_split(process)}
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Read the split that is evaluated, and the one that worked examples are drawn from if there are any.

        Raises:
            StageFailed: a needed split is not in the mirror, or the task's data cannot come from one.
        """
        name = self.config.task
        foreign = set(dataset_kwargs or {}) - _HARMLESS_DATASET_OPTIONS
        if callable(self.config.custom_dataset) or foreign:
            reason = f"dataset_kwargs {', '.join(sorted(foreign))}" if foreign else "a function of its own"
            raise StageFailed(
                f"task {name} reads its data with {reason}, which a mirror cannot replace; run it without data.mirror"
            )
        splits = [split for split in (self._evaluated_split(), self._example_split()) if split is not None]
        if not splits:
            raise StageFailed(f"task {name} names neither a test nor a validation split")
        self.dataset = datasets.DatasetDict(
            {
                split: datasets.Dataset(self._mirror.read(self.DATASET_PATH, self.DATASET_NAME, split, name))
                for split in dict.fromkeys(splits)
            }
        )

    def fewshot_docs(self) -> Any:
        """Return what worked examples are drawn from, or None where there are none: nothing is read for them."""
        return super().fewshot_docs() if self.config.num_fewshot else None

    def _evaluated_split(self) -> str | None:
        split: str | None = self.config.test_split or self.config.validation_split
        return split

    def _example_split(self) -> str | None:
        """Return the split that the harness draws worked examples from; None where it needs none."""
        if not self.config.num_fewshot:
            return None
        if self.fewshot_cfg.split is not None:
            return str(self.fewshot_cfg.split)
        if self.fewshot_cfg.samples is not None:
            return None
        split: str | None = self.config.training_split or self.config.validation_split or self.config.test_split
        return split


class _Factory(TaskFactory):  # type: ignore[misc]
    """The harness's factory, made to set the number of examples beforehand and to read from a mirror."""

    def __init__(self, num_fewshot: int | None, mirror: "Mirror | None") -> None:
        super().__init__()
        self._num_fewshot = num_fewshot
        self._mirror = mirror

    def _build_task(self, entry: Entry, overrides: dict[str, Any] | None) -> Task:
        # Looked at before any function of the task is imported.
        refuse_generated_code(entry.name, entry.cfg or {})
        if entry.kind is Kind.PY_TASK:
            task = super()._build_task(entry, overrides)
            task.set_config("num_fewshot", examples_of(entry.name, task.get_config("num_fewshot"), self._num_fewshot))
            return task
        config = self._load_full_config(entry, overrides)
        for structural in ("tag", "group", "task_list"):
            config.pop(structural, None)
        config["num_fewshot"] = examples_of(config["task"], config.get("num_fewshot"), self._num_fewshot)
        return ConfigurableTask(config=config) if self._mirror is None else MirroredTask(config, self._mirror)


def _entries(name: str) -> dict[str, Entry]:
    """Return the harness's entries for a name and for all that a group or tag of this name contains."""
    entries: dict[str, Entry] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in entries:
            continue
        entry = _entry(current)
        if entry is None:
            continue
        entries[current] = entry
        if entry.kind is Kind.TAG:
            waiting.extend(entry.tags)
        elif entry.kind is Kind.GROUP:
            waiting.extend(_member_names((entry.cfg or {}).get("task")))
    return entries


def _entry(name: str) -> Entry | None:
    path = own_tasks().get(name)
    if path is None and (file := stock_tasks().files.get(name)) is not None:
        path = STOCK_FOLDER / file
    if path is not None:
        definition = load_yaml(path, resolve_func=False)
        return Entry(name=name, kind=HarnessIndex._kind_of(definition), yaml_path=path, cfg=definition)
    if (members := stock_tasks().tags.get(name)) is not None:
        return Entry(name=name, kind=Kind.TAG, yaml_path=None, tags=set(members))
    return None


def _member_names(members: Any) -> list[str]:
    """Return every name that a group's `task` list mentions, also in groups that are defined within it."""
    names: list[str] = []
    for member in members if isinstance(members, list) else [members]:
        if isinstance(member, str):
            names.append(member)
        elif isinstance(member, Mapping):
            names.extend(value for key in ("group", "task") if isinstance(value := member.get(key), str))
            if isinstance(inner := member.get("task"), list):
                names.extend(_member_names(inner))
    return names


def _once_per_split(process: "Callable[[Any], Any]") -> "Callable[[Any], Any]":
    """Remember what a task makes of a split: the harness asks for it at every use."""
    done: dict[int, tuple[Any, Any]] = {}

    @functools.wraps(process)
    def remembered(split: Any) -> Any:
        if id(split) not in done:
            done[id(split)] = (split, process(split))
        return done[id(split)][1]

    return remembered


def _described(value: Any) -> Any:
    """Return a task's configuration as JSON data, functions by their source."""
    if isinstance(value, Mapping):
        return {str(field): _described(inner) for field, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_described(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return _described(vars(value))
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return f"{type(value).__module__}.{type(value).__qualname__}"
