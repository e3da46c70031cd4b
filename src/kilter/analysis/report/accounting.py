"""Where rows went and what the study cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from kilter.analysis.estimated import Expectations, expectations_of
from kilter.analysis.report.charts import Bar, bar_chart
from kilter.analysis.report.formatting import NOTHING, count, duration, size_in_bytes
from kilter.analysis.report.index import Index, reference_of
from kilter.analysis.results import DataAccount, Stage
from kilter.plan.estimates.amounts import Amount

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Segment:
    """A piece of the bar of a data set's rows."""

    kind: str
    name: str
    rows: str
    percent: str
    width: float
    """Share of the rows that came in, in per cent."""


@dataclass(frozen=True)
class Account:
    """A data set's rows in, dropped, held out and out."""

    name: str
    rows_in: str
    segments: tuple[Segment, ...]
    unexplained: int
    """Rows that came in and are neither dropped, held out nor out."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class KindCost:
    """The cost of all stages of a kind."""

    kind: str
    stages: int
    seconds: str
    expected: str
    """The time that the plan expected."""
    tokens: str
    memory: str


@dataclass(frozen=True)
class StageCost:
    """The cost of a stage; the numbers are what the table sorts by."""

    kind: str
    label: str
    anchor: str
    seconds: float
    seconds_text: str
    expected: float
    expected_text: str
    tokens: int
    tokens_text: str
    memory: int
    memory_text: str
    expected_memory: float
    expected_memory_text: str


@dataclass(frozen=True)
class Cost:
    """The cost of the study."""

    seconds: str
    expected: str
    compared: bool
    """Whether anything was expected that can be set against what was taken."""
    tokens: str
    memory: str
    stages: int
    kinds: tuple[KindCost, ...]
    chart: Markup
    rows: tuple[StageCost, ...]


def accounts(data: tuple[DataAccount, ...]) -> tuple[Account, ...]:
    """Say of each data set where its rows went."""
    return tuple(_account(account) for account in data)


def cost(index: Index) -> Cost:
    """Add up what the study's stages took."""
    stages = [stage for stage in index.results.stages if stage.state == "done"]
    expected = expectations_of(index.results)
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.stage, []).append(stage)
    largest = max((sum(stage.seconds for stage in members) for members in groups.values()), default=0.0)
    unit, divisor = ("hours", 3600.0) if largest >= 7200 else ("minutes", 60.0) if largest >= 120 else ("seconds", 1.0)
    bars = [_bar(kind, members, divisor) for kind, members in groups.items()]
    return Cost(
        seconds=duration(sum(stage.seconds for stage in stages)),
        expected=_expected_time(stages, expected),
        compared=bool(expected.stages),
        tokens=_tokens(stages),
        memory=size_in_bytes(_peak(stages)),
        stages=len(stages),
        kinds=tuple(
            KindCost(
                kind,
                len(members),
                duration(sum(stage.seconds for stage in members)),
                _expected_time(members, expected),
                _tokens(members),
                size_in_bytes(_peak(members)),
            )
            for kind, members in groups.items()
        ),
        chart=bar_chart(
            "Time by kind of stage",
            "Added over the stages of a kind; stages that ran side by side count in full. The table has the numbers.",
            sorted(bars, key=lambda bar: -bar.value),
            x_label=f"{unit}, added over the stages",
        ),
        rows=tuple(_stage_cost(index, stage, expected) for stage in sorted(stages, key=lambda stage: -stage.seconds)),
    )


def _account(account: DataAccount) -> Account:
    total = max(1, account.rows_in)
    pieces = [
        ("out", "kept", account.rows_out),
        ("held", "held out", account.held_out),
    ]
    for number, (reason, rows) in enumerate(account.dropped.items()):
        pieces.append((f"dropped d{number % 4}", f"dropped: {reason}", rows))
    segments = tuple(
        Segment(kind, name, count(rows), f"{100 * rows / total:.1f} %", 100 * rows / total)
        for kind, name, rows in pieces
    )
    explained = account.rows_out + account.held_out + sum(account.dropped.values())
    return Account(account.name, count(account.rows_in), segments, account.rows_in - explained, account.notes)


def _bar(kind: str, members: list[Stage], divisor: float) -> Bar:
    seconds = sum(stage.seconds for stage in members)
    text = f"{duration(seconds)} · {len(members)} {'stage' if len(members) == 1 else 'stages'}"
    return Bar(kind, seconds / divisor, text, f"{kind}: {text}")


def _expected_time(stages: list[Stage], expected: Expectations) -> str:
    """The time that stages were expected to take together; a dash where nothing is known of one of them."""
    return _bounded(expected.seconds(stages).amount, duration)


def _bounded(amount: Amount | None, write: "Callable[[float], str]") -> str:
    return NOTHING if amount is None else f"≤ {write(amount.value)}" if amount.at_most else write(amount.value)


def _stage_cost(index: Index, stage: Stage, expectations: Expectations) -> StageCost:
    expected = expectations.of(stage)
    return StageCost(
        kind=stage.stage,
        label=stage.label,
        anchor=index.anchor(reference_of(stage)),
        seconds=stage.seconds,
        seconds_text=duration(stage.seconds),
        expected=expected.seconds.value if expected.seconds else 0.0,
        expected_text=_bounded(expected.seconds, duration),
        tokens=stage.tokens or 0,
        tokens_text=count(stage.tokens),
        memory=stage.peak_memory_bytes or 0,
        memory_text=size_in_bytes(stage.peak_memory_bytes),
        expected_memory=expected.memory.value if expected.memory else 0.0,
        expected_memory_text=_bounded(expected.memory, lambda value: size_in_bytes(round(value))),
    )


def _tokens(stages: list[Stage]) -> str:
    known = [stage.tokens for stage in stages if stage.tokens is not None]
    return count(sum(known)) if known else NOTHING


def _peak(stages: list[Stage]) -> int | None:
    return max((stage.peak_memory_bytes for stage in stages if stage.peak_memory_bytes is not None), default=None)
