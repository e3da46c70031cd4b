"""The smallest parallelism that fits, in the order that is promised, and what would fit where nothing does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.errors import WrongInput
from kilter.plan.estimates.amounts import Amount, product, total
from kilter.plan.estimates.cost import cost_of, price_of
from kilter.plan.estimates.fitting import Allowed, Scoring, Training, candidates, remedies, smallest_fit
from kilter.plan.estimates.hardware import figures_of, hardware, machine_named
from kilter.plan.estimates.memory import Batch, Parallelism, Recipe
from kilter.plan.estimates.shapes import ModelShape

MISTRAL = ModelShape(4096, 32, 32, 8, 128, 14336, 32000, tied=False)
SMALL = ModelShape(2048, 16, 32, 8, 64, 8192, 128256, tied=True)
H100 = machine_named("h100-80gb")


def training(shape: ModelShape = MISTRAL, micro_batch: int = 1, longest: int = 1024) -> Training:
    return Training(shape, Recipe(packed=True), 2, micro_batch, 128, longest)


def test_a_small_model_needs_one_gpu_and_nothing_clever() -> None:
    fit = smallest_fit(training(SMALL), H100, Allowed(8))
    assert fit is not None
    assert fit.parallelism == Parallelism()


def test_seven_billion_weights_need_several_gpus() -> None:
    # 16 bytes a weight come to 116 GB: no GPU of 80 GB holds them alone.
    fit = smallest_fit(training(), H100, Allowed(8))
    assert fit is not None
    assert fit.parallelism.gpus > 1
    assert fit.parallelism.zero >= 1
    assert fit.parallelism.offload == "none"
    assert fit.memory.total <= (H100.usable_bytes or 0)


@given(
    micro_batch=st.sampled_from([1, 2, 8]),
    longest=st.sampled_from([256, 1024, 4096]),
    shape=st.sampled_from([SMALL, MISTRAL]),
    machine=st.sampled_from([name for name in hardware().machines if name != "cpu"]),
    most=st.sampled_from([1, 2, 8, 64]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_chosen_is_the_first_that_fits_and_more_gpus_only_help(
    micro_batch: int, longest: int, shape: ModelShape, machine: str, most: int
) -> None:
    work, kind = training(shape, micro_batch, longest), machine_named(machine)
    fit = smallest_fit(work, kind, Allowed(most))
    tried = list(candidates(work, Allowed(most)))
    fitting = [each for each in tried if work.memory(each).total <= (kind.usable_bytes or 0)]
    assert (fit.parallelism if fit else None) == (fitting[0] if fitting else None)
    if fit is not None:
        larger = smallest_fit(work, kind, Allowed(2 * most))
        assert larger is not None
        assert larger.parallelism == fit.parallelism or fit.parallelism.offload != "none"


def test_plain_comes_before_recomputing_before_more_gpus_before_the_host() -> None:
    order = list(candidates(training(), Allowed(2)))
    assert order[:6] == [
        Parallelism(1, 0),
        Parallelism(1, 0, checkpointing=True),
        Parallelism(2, 0),
        Parallelism(2, 1),
        Parallelism(2, 2),
        Parallelism(2, 3),
    ]
    offloads = [each.offload for each in order]
    assert offloads == sorted(offloads, key=["none", "optimizer", "parameters"].index)


def test_what_the_study_fixes_is_kept() -> None:
    asked = Allowed(8, processes=4, zero=2, offload=None)
    assert {(each.gpus, each.zero) for each in candidates(training(), asked)} == {(4, 2)}
    assert {each.offload for each in candidates(training(), Allowed(8, offload="parameters"))} == {"parameters"}
    assert list(candidates(training(), Allowed(2, processes=4))) == []


def test_remedies_are_what_fits_when_tried() -> None:
    work = training(MISTRAL, micro_batch=8, longest=16384)
    l4 = machine_named("l4")
    assert smallest_fit(work, l4, Allowed(1)) is None
    found = dict(each.rsplit(" ", 1) for each in remedies(work, l4, Allowed(1)) if each.startswith(("micro", "max")))
    assert "max_length" in found
    assert smallest_fit(training(MISTRAL, 8, int(found["max_length"])), l4, Allowed(1)) is not None
    assert smallest_fit(training(MISTRAL, 8, 2 * int(found["max_length"])), l4, Allowed(1)) is None


def test_scoring_that_does_not_fit_asks_for_a_larger_gpu_only() -> None:
    work = Scoring(MISTRAL, Recipe(), Batch(64, 1024))
    assert smallest_fit(work, machine_named("l4"), Allowed(8)) is None
    (remedy,) = remedies(work, machine_named("l4"), Allowed(8))
    assert remedy.startswith("--gpu ")
    assert "h100-80gb" in remedy
    assert "l4 or" not in remedy


def test_every_machine_says_where_each_figure_is_from() -> None:
    for name in hardware().machines:
        for figure in figures_of(machine_named(name)).values():
            assert figure.source
    assert hardware().recorded.year >= 2026
    with pytest.raises(WrongInput, match="there are a100-40gb"):
        machine_named("h1000")


def test_a_price_is_per_gpu_hour_of_the_machine() -> None:
    price = price_of("{h100-80gb: 2.5, l4: 0.5, currency: EUR}", H100, "prices.yaml")
    assert (price.per_gpu_hour, price.currency) == (2.5, "EUR")
    assert cost_of(Amount(4.0, at_most=True), price) == Amount(10.0, at_most=True)
    assert cost_of(None, price) is None
    assert cost_of(Amount(4.0), None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{l4: 1, currency: EUR}", "no price for h100-80gb"),
        ("{h100-80gb: 1}", "does not say the currency"),
        ("{h100-80gb: cheap, currency: EUR}", "h100-80gb: .*number"),
        ("{h100-80gb: -1, currency: EUR}", "greater than or equal to 0"),
        ("{h100: 1, currency: EUR}", "names h100; there are"),
        ("[1]", "holds no prices"),
        ("{", "is not YAML"),
    ],
)
def test_a_price_file_that_cannot_be_used_is_refused(text: str, message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        price_of(text, H100, "prices.yaml")


def test_sums_keep_bounds_and_count_what_is_not_known() -> None:
    assert total([Amount(1.0), Amount(2.0)]).amount == Amount(3.0)
    assert total([Amount(1.0), Amount(2.0, at_most=True)]).amount == Amount(3.0, at_most=True)
    partly = total([Amount(1.0), None, None])
    assert (partly.value, partly.unknown, partly.amount) == (1.0, 2, None)
    assert product(Amount(2.0), Amount(3.0, at_most=True)) == Amount(6.0, at_most=True)
    assert product(Amount(2.0), None) is None
