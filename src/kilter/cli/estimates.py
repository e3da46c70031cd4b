"""Shows what a plan is expected to take: a table of kinds or of stages, and the same as JSON data."""

from typing import TYPE_CHECKING, Any

from kilter.cli.console import human_bytes, human_seconds
from kilter.errors import WrongInput
from kilter.plan.estimates.hardware import figures_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from kilter.plan.estimates.amounts import Amount, Total
    from kilter.plan.estimates.cost import Price
    from kilter.plan.estimates.estimate import PlanEstimate, StageEstimate
    from kilter.plan.estimates.memory import Memory, Parallelism

UNKNOWN = "unknown"
NOTHING = "–"
_MOST_NAMED = 3
_RECOMPUTES = "*"
_OFFLOAD_MARKS = {"none": "", "optimizer": "†", "parameters": "‡"}
_MARKS = {
    _RECOMPUTES: "with activation checkpointing, which trainers switch on where memory needs it",
    "†": "with the optimizer's states in the host's memory (`distributed: {offload: optimizer}` in the study)",
    "‡": "with all states in the host's memory (`distributed: {offload: parameters}` in the study)",
}


def refuse_misfits(estimate: "PlanEstimate", most: int) -> None:
    """Refuse a plan with stages that fit no allowed resource, saying what would fit.

    Raises:
        WrongInput: there is such a stage.
    """
    by_kind: dict[str, list[Any]] = {}
    for misfit in estimate.misfits.values():
        by_kind.setdefault(misfit.stage, []).append(misfit)
    if not by_kind:
        return
    machine = estimate.machine
    usable = f"{machine.name} has {_size(machine.usable_bytes or 0)} for it"
    lines = []
    for stage, misfits in by_kind.items():
        first = misfits[0]
        more = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        needs = "asks for more GPUs" if first.memory is None else f"needs {_size(first.memory.total)} on each GPU"
        lines.append(
            f"{stage} {first.label}{more}: {needs} at the least; {usable}, and a stage may have {most}. "
            f"What would fit: {'; '.join(first.remedies) or 'nothing in the table'}"
        )
    raise WrongInput("\n".join(lines))


def estimate_data(estimate: "PlanEstimate", price: "Price | None") -> dict[str, Any]:
    """Return the estimates as JSON data: by kind, in all, and by result; null is not known."""
    return {
        "machine": estimate.machine.name,
        "currency": price.currency if price else None,
        "stages": {str(reference): _stage_data(each) for reference, each in estimate.stages.items()},
        "kinds": {kind: _sums_data(estimate, kind) for kind in _kinds(estimate)},
        "total": _sums_data(estimate, None),
        "longest_chain_seconds": _total_data(estimate.longest_chain_seconds),
        "figures": {
            name: {"value": figure.value, "from": figure.source}
            for name, figure in figures_of(estimate.machine).items()
        },
    }


def kinds_table(estimate: "PlanEstimate", price: "Price | None") -> "Table":
    """Return one line for each kind of stage, and the sum."""
    table = _table("What is still to run, by kind", "stages", estimate, price)
    for kind in [*_kinds(estimate), None]:
        members = [each for each in estimate.stages.values() if kind in (None, each.stage)]
        if kind is None:
            table.add_section()
        sums = estimate.sums(kind)
        computes = any(each.computes for each in members)
        memory = NOTHING
        if computes:
            memory = UNKNOWN if sums.memory is None else _bounded(_size(sums.memory), sums.memory_at_most)
        money = [_total_text(sums.gpu_hours, 1)] if estimate.machine.is_gpu else []
        if price is not None:
            money.append(_total_text(sums.cost, 2))
        table.add_row(
            kind or "all",
            str(sums.stages),
            memory,
            _spreads(members) if computes and kind else NOTHING,
            _total_time(sums.seconds),
            *(money if computes else [NOTHING] * len(money)),
            _total_bytes(sums.store_bytes),
        )
    return table


def stages_table(estimate: "PlanEstimate", price: "Price | None") -> "Table":
    """Return one line for each stage."""
    table = _table("What is still to run, stage by stage", "label", estimate, price)
    for reference, each in estimate.stages.items():
        memory = NOTHING
        if each.computes:
            memory = UNKNOWN if each.memory is None else _bounded(_size(each.memory.total), each.memory_at_most)
        money = [_amount_text(each.gpu_hours, 2)] if estimate.machine.is_gpu else []
        if price is not None:
            money.append(_amount_text(each.cost, 2))
        table.add_row(
            reference.short,
            each.label,
            memory,
            _spreads([each]) if each.computes else NOTHING,
            UNKNOWN if each.seconds is None else _bounded(_duration(each.seconds.value), each.seconds.at_most),
            *(money if each.computes else [NOTHING] * len(money)),
            UNKNOWN if each.store_bytes is None else _bounded(_size(each.store_bytes.value), each.store_bytes.at_most),
        )
    return table


def notes(estimate: "PlanEstimate", price: "Price | None") -> "tuple[str, ...]":
    """Return what is worth saying below the table."""
    chain = estimate.longest_chain_seconds
    shown = "".join(_spread(each.parallelism) for each in estimate.stages.values() if each.parallelism)
    found = [f"{mark}: {meaning}." for mark, meaning in _MARKS.items() if mark in shown]
    found += [
        "≤: at most, from a bound such as max_length in place of the mean length. Times add up all stages; with as "
        f"many machines as can be used, the longest chain of stages takes {_total_time(chain)}."
    ]
    unknown = [each for each in estimate.stages.values() if each.seconds is None or each.store_bytes is None]
    if unknown:
        kinds = ", ".join(dict.fromkeys(each.stage for each in unknown))
        found.append(
            f"?: stages of which something is not known ({kinds}). A file named in `facts` can tell it, or the store "
            "once their inputs are there."
        )
    figures = figures_of(estimate.machine).values()
    assumed = sum(figure.source.startswith("assumed") for figure in figures)
    found.append(
        f"Of the {len(figures)} figures about {estimate.machine.name} and its use {assumed} are assumptions; --json "
        "lists each with its source, and docs/estimates.md has the formulas."
    )
    if price is None and estimate.machine.is_gpu:
        found.append("--prices FILE adds the cost.")
    return tuple(found)


def _kinds(estimate: "PlanEstimate") -> list[str]:
    from kilter.stages.registry import STAGES

    present = {each.stage for each in estimate.stages.values()}
    return [name for name in STAGES if name in present]


def _table(title: str, second: str, estimate: "PlanEstimate", price: "Price | None") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{title}, on {estimate.machine.name}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column(second, justify="left" if second == "label" else "right")
    headings = ["mem/GPU", "GPUs", "time", "GPU-h"] if estimate.machine.is_gpu else ["memory", "processes", "time"]
    if price is not None:
        headings.append(price.currency)
    for heading in [*headings, "store"]:
        table.add_column(heading, justify="right")
    return table


def _spreads(members: "Iterable[StageEstimate]") -> str:
    """The parallelisms of stages, each once: `4 × ZeRO-2, checkpointing`."""
    found = list(dict.fromkeys(_spread(each.parallelism) for each in members))
    named = "; ".join(found[:_MOST_NAMED])
    return named if len(found) <= _MOST_NAMED else f"{named}; …"


def _spread(parallelism: "Parallelism | None") -> str:
    if parallelism is None:
        return UNKNOWN
    text = f"{parallelism.gpus} × ZeRO-{parallelism.zero}" if parallelism.zero else str(parallelism.gpus)
    marks = _OFFLOAD_MARKS[parallelism.offload] + (_RECOMPUTES if parallelism.checkpointing else "")
    return text + marks


def _bounded(text: str, at_most: bool) -> str:
    return f"≤ {text}" if at_most else text


def _size(count: float) -> str:
    """Bytes with no more digits than an estimate has.

    >>> _size(50.4 * 2**30)
    '50 GiB'
    """
    number, unit = human_bytes(count).split()
    return f"{float(number):.0f} {unit}" if float(number) >= 10 else f"{number} {unit}"


def _duration(seconds: float) -> str:
    """A duration with no more digits than an estimate has.

    >>> _duration(8940)
    '2.5 h'
    """
    if seconds < 60:
        return human_seconds(seconds)
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _amount_text(amount: "Amount | None", digits: int) -> str:
    return UNKNOWN if amount is None else _bounded(f"{amount.value:,.{digits}f}", amount.at_most)


def _total_text(total: "Total", digits: int) -> str:
    return _with_unknown(f"{total.value:,.{digits}f}", total)


def _total_time(total: "Total") -> str:
    return _with_unknown(_duration(total.value), total)


def _total_bytes(total: "Total") -> str:
    return _with_unknown(_size(total.value), total)


def _with_unknown(text: str, total: "Total") -> str:
    """A sum, with the number of parts that are not known: `≤ 3 h 20 min + 2 ?`."""
    if total.unknown and not total.value:
        return UNKNOWN
    text = _bounded(text, total.at_most)
    return f"{text} + {total.unknown} ?" if total.unknown else text


def _stage_data(each: "StageEstimate") -> dict[str, Any]:
    return {
        "stage": each.stage,
        "label": each.label,
        "computes": each.computes,
        "parallelism": _parallelism_data(each.parallelism),
        "memory": _memory_data(each.memory, at_most=each.memory_at_most),
        "seconds": _amount_data(each.seconds),
        "gpu_hours": _amount_data(each.gpu_hours),
        "store_bytes": _amount_data(each.store_bytes),
        "cost": _amount_data(each.cost) if each.price else None,
    }


def _parallelism_data(parallelism: "Parallelism | None") -> dict[str, Any] | None:
    if parallelism is None:
        return None
    return {
        "gpus": parallelism.gpus,
        "zero": parallelism.zero,
        "offload": parallelism.offload,
        "checkpointing": parallelism.checkpointing,
    }


def _memory_data(memory: "Memory | None", *, at_most: bool) -> dict[str, Any] | None:
    if memory is None:
        return None
    parts = ("total", "weights", "gradients", "optimizer", "activations", "head", "buffers", "host")
    return {**{part: round(getattr(memory, part)) for part in parts}, "at_most": at_most}


def _amount_data(amount: "Amount | None") -> dict[str, Any] | None:
    return None if amount is None else {"value": amount.value, "at_most": amount.at_most}


def _total_data(total: "Total") -> dict[str, Any]:
    return {"value": total.value, "at_most": total.at_most, "unknown": total.unknown}


def _sums_data(estimate: "PlanEstimate", kind: str | None) -> dict[str, Any]:
    sums = estimate.sums(kind)
    return {
        "stages": sums.stages,
        "memory": None if sums.memory is None else {"value": round(sums.memory), "at_most": sums.memory_at_most},
        "gpus": sums.gpus,
        "seconds": _total_data(sums.seconds),
        "gpu_hours": _total_data(sums.gpu_hours),
        "store_bytes": _total_data(sums.store_bytes),
        "cost": _total_data(sums.cost),
    }
