"""Suites: names that stand for several benchmarks with their settings."""

from types import MappingProxyType
from typing import TYPE_CHECKING

from kilter.study.specification import Benchmark

if TYPE_CHECKING:
    from collections.abc import Mapping

MT_BENCH = "mt_bench"
"""Answers judged by a model (Zheng et al. 2023, arXiv 2306.05685); not a task of lm-evaluation-harness."""

SUITES: "Mapping[str, tuple[Benchmark, ...]]" = MappingProxyType(
    {
        # The benchmarks of arXiv 2404.14723. The shots of the first six are those of the Open LLM Leaderboard (2023),
        # whose scores the paper's baselines equal; those of the six marked `assumed` are not certain from the paper.
        "insights-13": (
            Benchmark(task="arc_challenge", num_fewshot=25),
            Benchmark(task="hellaswag", num_fewshot=10),
            Benchmark(task="mmlu", num_fewshot=5),
            Benchmark(task="truthfulqa_mc2", num_fewshot=0),
            Benchmark(task="winogrande", num_fewshot=5),
            Benchmark(task="gsm8k", num_fewshot=5),
            Benchmark(task="bbh_cot_fewshot_causal_judgement", num_fewshot=3, assumed=True),
            Benchmark(task="bbh_cot_fewshot_sports_understanding", num_fewshot=3, assumed=True),
            Benchmark(task="bbh_cot_fewshot_formal_fallacies", num_fewshot=3, assumed=True),
            Benchmark(task="openbookqa", num_fewshot=1, assumed=True),
            Benchmark(task="piqa", num_fewshot=0, assumed=True),
            Benchmark(task="boolq", num_fewshot=0, assumed=True),
            Benchmark(task=MT_BENCH),
        ),
    }
)


def expand_suites(benchmarks: "tuple[Benchmark, ...]") -> tuple[Benchmark, ...]:
    """Replace every suite by its benchmarks; a limit written beside the suite's name holds for each of them."""
    expanded: list[Benchmark] = []
    for benchmark in benchmarks:
        for member in SUITES.get(benchmark.task, (benchmark,)):
            limited = benchmark.limit is not None and benchmark.task in SUITES
            expanded.append(member.model_copy(update={"limit": benchmark.limit}) if limited else member)
    return tuple(expanded)
