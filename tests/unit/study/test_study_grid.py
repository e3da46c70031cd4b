"""The method grid: axes, defaults, overrides, and what names a cell."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kilter.study.grid import cells_of, default_micro_batch_size, expand_methods, identity_of
from kilter.study.methods import METHODS
from kilter.study.specification import AlignSettings, Study


def study(*methods, **align):
    return Study.model_validate(
        {
            "name": "x",
            "models": {"base": {"source": "org/base"}},
            "data": {"preference": {"source": "org/pairs"}},
            "methods": methods,
            "benchmarks": ["a"],
            "training": {"align": align},
        }
    )


def variants(*methods, **align):
    return [(cell.method, cell.variant) for cell in expand_methods(study(*methods, **align))]


def test_methods_alone_have_their_defaults_and_no_variant():
    cells = expand_methods(study("dpo", "kto", epochs=2))
    assert [(cell.method, cell.variant) for cell in cells] == [("dpo", ""), ("kto", "")]
    assert cells[0].hyperparameters == {"beta": 0.01}
    assert cells[1].hyperparameters == {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    assert all(cell.training == AlignSettings(epochs=2) for cell in cells)


def test_every_list_is_an_axis():
    grid = {"name": "cpo", "beta": [0.1, 1], "cpo_alpha": [0, 0.5], "training": {"learning_rate": [1e-6, 5e-7]}}
    cells = expand_methods(study(grid))
    assert len({identity_of(cell) for cell in cells}) == len(cells) == 8
    assert cells[0].variant == "beta=0.1,cpo_alpha=0,learning_rate=1e-06"
    assert cells[-1].variant == "beta=1,cpo_alpha=0.5,learning_rate=5e-07"
    assert cells[-1].training == AlignSettings(learning_rate=5e-7)


def test_adapters_are_an_axis_whose_cells_are_named_by_what_sets_them_apart():
    small = {"method": "lora", "rank": 8}
    against_all = {"name": "dpo", "training": {"peft": [None, small]}}
    assert variants(against_all) == [("dpo", "peft=none"), ("dpo", "peft=lora")]
    ranks = {"name": "dpo", "training": {"peft": [small, {"method": "lora", "rank": 16}]}}
    assert variants(ranks) == [
        ("dpo", "peft=lora,lora_rank=8,lora_alpha=8"),
        ("dpo", "peft=lora,lora_rank=16,lora_alpha=16"),
    ]
    # Some methods have a hyperparameter called alpha.
    alphas = {"name": "alphapo", "alpha": [0.1, 0.2], "training": {"peft": {"method": "lora"}}}
    assert variants(alphas) == [("alphapo", "alpha=0.1,peft=lora"), ("alphapo", "alpha=0.2,peft=lora")]
    assert variants("dpo", {"name": "tr-dpo", "training": {"peft": None}}, peft=small) == [
        ("dpo", "peft=lora"),
        ("tr-dpo", ""),
    ]


def test_an_adapter_with_its_default_written_out_is_the_same_training():
    plain, written = (study("dpo", peft={"method": "lora", "rank": 8} | more) for more in ({}, {"alpha": 8}))
    assert identity_of(expand_methods(plain)[0]) == identity_of(expand_methods(written)[0])


def test_a_variant_names_only_what_differs_within_the_method():
    assert variants({"name": "dpo", "beta": [0.01, 0.1]}, {"name": "ipo", "beta": 0.5}, "kto") == [
        ("dpo", "beta=0.01"),
        ("dpo", "beta=0.1"),
        ("ipo", ""),
        ("kto", ""),
    ]
    assert variants("dpo", {"name": "dpo", "training": {"scheduler": "linear"}}) == [
        ("dpo", "scheduler=cosine"),
        ("dpo", "scheduler=linear"),
    ]
    one_value = {"name": "dpo", "beta": [0.3], "training": {"epochs": [3]}}
    assert variants(one_value) == [("dpo", "")]


def test_an_override_replaces_the_studys_setting():
    cells = expand_methods(study("dpo", {"name": "ipo", "training": {"batch_size": 64}}, batch_size=32, epochs=2))
    assert [(cell.training.batch_size, cell.training.epochs) for cell in cells] == [(32, 2), (64, 2)]


def test_writing_a_default_or_a_list_of_one_is_the_same_cell():
    align = AlignSettings()
    written = study("dpo", {"name": "dpo", "beta": 0.01}, {"name": "dpo", "beta": [0.01], "training": {"epochs": 1}})
    assert len({identity_of(cell) for choice in written.methods for cell in cells_of(choice, align)}) == 1


def test_what_is_not_known_is_refused_rather_than_ignored():
    with pytest.raises(KeyError, match="dpo has no bta"):
        expand_methods(study({"name": "dpo", "bta": 1}))
    with pytest.raises(ValidationError, match="lr"):
        expand_methods(study({"name": "dpo", "training": {"lr": 1}}))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(METHODS)), st.lists(st.floats(0.001, 10), min_size=2, max_size=4, unique=True))
def test_variants_tell_cells_apart(name, betas):
    first = next(iter(METHODS[name].hyperparameters))
    cells = expand_methods(study({"name": name, first: betas}))
    assert [cell.hyperparameters[first] for cell in cells] == betas
    assert len({cell.variant for cell in cells}) == len(betas)


@pytest.mark.parametrize(("batch", "micro"), [(128, 8), (7, 7), (12, 6), (11, 1), (1, 1), (20, 5), (18, 6)])
def test_the_default_micro_batch_is_the_largest_divisor_up_to_8(batch, micro):
    assert default_micro_batch_size(batch) == micro


def test_defaults_lie_in_their_own_ranges():
    for method in METHODS.values():
        for name, parameter in method.hyperparameters.items():
            assert parameter.allows(parameter.default), (method.name, name)
            assert not parameter.allows(-1)
            assert parameter.source
