"""Each method's loss and gradient equal what the paper's formula gives, worked out here in float64 without our code.

The policy is a Llama in float64 whose logits go through a plain log-softmax; the formulas are written out below.
"""

import math

import numpy as np
import pytest
import tiny_training
import torch
from transformers import LlamaForCausalLM

from kilter.training.loop import common_arguments
from kilter.training.models import load_model, load_tokenizer
from kilter.training.tasks import alignment_task, alignment_trainer

LOSS, GRADIENT = 1e-5, 1e-4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pairs of unequal lengths with one tie, values of a reference that differs from the policy."""
    folder = tmp_path_factory.mktemp("golden")
    reference = tiny_training.make_world(
        folder, rows=16, model=tiny_training.write_model(folder / "reference_model", 2)
    )
    policy = tiny_training.write_model(folder / "policy", seed=1)
    return tiny_training.World(policy, reference.data, reference.reference, reference.mismatched, reference.holdout)


@pytest.fixture(scope="module")
def reference_model(world):
    return LlamaForCausalLM.from_pretrained(world.model.parent / "reference_model", dtype=torch.float64)


def log_probability(model, prompt, answer):
    """log π(answer | prompt), summed over the answer's tokens: one sequence at a time, so without any padding."""
    tokens = torch.tensor([list(prompt) + list(answer)])
    logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(dim=-1).gather(1, tokens[0, len(prompt) :, None]).sum()


def ratios(policy, reference, rows, prompts, answers):
    """log π/π_ref of each answer given each prompt."""
    values = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            base = log_probability(reference, rows.prompts[prompt], answer)
        values.append(log_probability(policy, rows.prompts[prompt], answer) - base)
    return torch.stack(values)


def expected_loss(method, policy, reference, rows, values):
    indices = range(len(rows))
    chosen, rejected = ([part[row] for row in indices] for part in (rows.chosen, rows.rejected))
    beta = values["beta"]
    if method == "cpo":  # arXiv 2401.08417, equations 3 to 6
        gaps, likelihood, tokens = [], 0.0, 0
        for row in indices:
            winner = log_probability(policy, rows.prompts[row], chosen[row])
            gaps.append(winner - log_probability(policy, rows.prompts[row], rejected[row]))
            likelihood, tokens = likelihood - winner, tokens + len(chosen[row])
        return -torch.stack(gaps).mul(beta).sigmoid().log().mean() + values["cpo_alpha"] * likelihood / tokens
    delta_chosen = ratios(policy, reference, rows, indices, chosen)
    delta_rejected = ratios(policy, reference, rows, indices, rejected)
    if method == "dpo":  # arXiv 2305.18290, equation 7
        return -(beta * (delta_chosen - delta_rejected)).sigmoid().log().mean()
    if method == "ipo":  # arXiv 2310.12036, equation 17, log-ratios averaged over tokens
        lengths = [torch.tensor([len(answer) for answer in part]) for part in (chosen, rejected)]
        return ((delta_chosen / lengths[0] - delta_rejected / lengths[1] - 1 / (2 * beta)) ** 2).mean()
    # arXiv 2402.01306, equations 6 to 8: z from answers to other prompts of the batch, no gradient through it
    partners = [rows.mismatched[row] for row in indices]
    with torch.no_grad():
        others = [rows.chosen[row] for row in partners] + [rows.rejected[row] for row in partners]
        baseline = ratios(policy, reference, rows, [*indices, *indices], others).mean().clamp(min=0)
    desirable = values["desirable_weight"] * (1 - (beta * (delta_chosen - baseline)).sigmoid())
    undesirable = values["undesirable_weight"] * (1 - (beta * (baseline - delta_rejected)).sigmoid())
    return torch.cat([desirable, undesirable]).mean()


@pytest.mark.parametrize(("method", "beta"), [("dpo", 0.1), ("ipo", 0.1), ("ipo", 0.01), ("kto", 0.3), ("cpo", 0.1)])
def test_loss_and_gradient_are_those_of_the_paper(world, reference_model, tmp_path, method, beta):
    values = tiny_training.HYPERPARAMETERS[method] | {"beta": beta}
    config = tiny_training.align_config(method, hyperparameters=values, batch_size=16, micro_batch_size=16)
    task = alignment_task(world.data, [world.reference], [world.mismatched], config)
    model, _ = load_model(world.model, "cpu")
    arguments = common_arguments(config, task.schedule, tmp_path)
    trainer = alignment_trainer(model, load_tokenizer(world.model), task, config, arguments, [])

    batches, _ = trainer.get_batch_samples(iter([trainer.collate(range(16))]), 1, "cpu")
    model.train()
    loss = trainer.compute_loss(model, batches[0])
    loss.backward()

    policy = LlamaForCausalLM.from_pretrained(world.model, dtype=torch.float64)
    expected = expected_loss(method, policy, reference_model, task.rows, values)
    expected.backward()
    if method == "kto":
        assert trainer.stored_metrics()["kl"][0] > 0.1, "the case must exercise the KL term"
    assert math.isclose(loss.item(), expected.item(), rel_tol=LOSS)
    gradients = {name: weight.grad for name, weight in policy.named_parameters()}
    for name, weight in model.named_parameters():
        error = (weight.grad.double() - gradients[name]).norm() / gradients[name].norm()
        assert error < GRADIENT, name


@pytest.mark.parametrize(("method", "expected"), [("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5), ("cpo", None)])
def test_a_tie_has_the_loss_of_a_coin(world, tmp_path, method, expected):
    """Row 1 has the same answer twice: nothing is preferred, whatever the policy is."""
    config = tiny_training.align_config(method, hyperparameters=tiny_training.HYPERPARAMETERS[method])
    if method == "kto":
        values = config.hyperparameters | {"desirable_weight": 1.0, "undesirable_weight": 1.0}
        config = config.model_copy(update={"hyperparameters": values})
    task = alignment_task(world.data, [world.reference], [world.mismatched], config)
    model, _ = load_model(world.model, "cpu")
    arguments = common_arguments(config, task.schedule, tmp_path)
    trainer = alignment_trainer(model, load_tokenizer(world.model), task, config, arguments, [])
    batches, _ = trainer.get_batch_samples(iter([trainer.collate([1])]), 1, "cpu")
    loss = trainer.compute_loss(model, batches[0]).item()
    if method == "cpo":
        rows = task.rows
        with torch.no_grad():
            likelihood = -log_probability(model, rows.prompts[1], rows.chosen[1]) / len(rows.chosen[1])
        expected = math.log(2) + config.hyperparameters["cpo_alpha"] * float(likelihood)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_reference_values_are_sums_of_float64_log_probabilities(world, reference_model):
    import pyarrow.parquet as pq

    from kilter.training.rows import read_pairs

    rows = read_pairs(world.data / "train.parquet")
    own, others = (pq.read_table(path).to_pylist() for path in (world.reference, world.mismatched))
    with torch.no_grad():
        for row in range(len(rows)):
            prompt, answers = rows.prompts[row], {"chosen": rows.chosen[row], "rejected": rows.rejected[row]}
            shorter = min(map(len, answers.values()))
            for name, answer in answers.items():
                assert own[row][f"{name}_tokens"] == len(answer)
                whole = log_probability(reference_model, prompt, answer)
                assert own[row][f"{name}_logp"] == pytest.approx(float(whole), rel=1e-6)
                first = log_probability(reference_model, prompt, answer[:shorter])
                assert own[row][f"{name}_logp_shorter"] == pytest.approx(float(first), rel=1e-6)
            partner = rows.mismatched[row]
            for name, answer in {"chosen": rows.chosen[partner], "rejected": rows.rejected[partner]}.items():
                assert others[row][f"{name}_tokens"] == len(answer)
                whole = log_probability(reference_model, prompt, answer)
                assert others[row][f"{name}_logp"] == pytest.approx(float(whole), rel=1e-6)
    assert np.unique(rows.chosen.lengths).size > 3
