"""What is known of benchmarks beforehand: which metric people quote, and how answers are taken."""

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["choice", "likelihood", "perplexity", "generation"]

_KINDS: dict[str, Kind] = {
    "multiple_choice": "choice",
    "loglikelihood": "likelihood",
    "loglikelihood_rolling": "perplexity",
    "generate_until": "generation",
}

# Length-normalised accuracy is what the Open LLM Leaderboard and the papers of these sets' users report.
_NORMALISED = ("arc_challenge", "arc_easy", "hellaswag", "openbookqa", "piqa", "sciq")

# GSM8K is quoted by its strict filter (Open LLM Leaderboard); the flexible one is kept beside it. The filters of BBH
# are those that the harness's own BBH groups aggregate.
_FILTERS = {
    "gsm8k": "strict-match",
    "bbh_zeroshot": "flexible-extract",
    "bbh_cot_zeroshot": "flexible-extract",
    "bbh_cot_fewshot": "get-answer",
    "bbh_fewshot": "none",
    "bbh": "get-answer",
}

_METRICS = ("acc", "exact_match", "acc_norm", "em", "f1", "mcc", "bleu", "rougeL", "word_perplexity", "perplexity")

# A generated answer is right by chance next to never; other metrics of generations have no such floor.
_CHANCE_IS_ZERO = ("exact_match", "acc", "em")
_CHANCE_IS_CHOICE = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")


class Measure(NamedTuple):
    """A metric after a filter; the harness writes it `metric,filter`."""

    metric: str
    filter: str


def kind_of(output_type: str) -> Kind:
    """Return how a task takes its answers, from the harness's `output_type`."""
    return _KINDS[output_type]


def primary_measure(benchmark: str, measures: "Iterable[Measure]") -> Measure | None:
    """Return the measure that tables show for a benchmark, or None where there is none.

    `acc_norm` for ARC, HellaSwag, OpenBookQA, PIQA and SciQ; else accuracy, else exact match, else the first that the
    task defines. Of several filters, the one that is usually quoted, else the first.
    """
    available = list(measures)
    if not available:
        return None
    preferred = ("acc_norm", *_METRICS) if benchmark in _NORMALISED else _METRICS
    metric = next((name for name in preferred if any(name == measure.metric for measure in available)), None)
    candidates = [measure for measure in available if metric in (None, measure.metric)]
    quoted = _quoted_filter(benchmark)
    return next((measure for measure in candidates if measure.filter == quoted), candidates[0])


def chance_of_choice(metric: str, rights: int, choices: int) -> float | None:
    """Return the expected score of guessing one document among `choices`, `rights` of which count as right."""
    return rights / choices if metric in _CHANCE_IS_CHOICE else None


def chance_of_generation(metric: str) -> float | None:
    """Return the expected score of guessing where the answer is generated freely."""
    return 0.0 if metric in _CHANCE_IS_ZERO else None


def _quoted_filter(benchmark: str) -> str | None:
    family = max(
        (name for name in _FILTERS if benchmark == name or benchmark.startswith(f"{name}_")), key=len, default=None
    )
    return None if family is None else _FILTERS[family]
