"""Each method's loss and gradient equal what the paper's formula gives, worked out here in float64 without our code.

The policy is a Llama in float64 whose logits go through a plain log-softmax; the formulas are written out below.
"""

import math

import numpy as np
import pytest
import tiny_training
import torch
from transformers import LlamaForCausalLM

from kilter.study.methods import METHODS
from kilter.training.loop import common_arguments
from kilter.training.methods.objectives import OBJECTIVES
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


def token_log_probabilities(model, prompt, answer):
    """log π of each of the answer's tokens, and the log of the sum of squared probabilities before each of them."""
    tokens = torch.tensor([list(prompt) + list(answer)])
    logps = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
    own = logps.gather(1, tokens[0, len(prompt) :, None])[:, 0]
    return own, (2 * logps).logsumexp(dim=1)


class Case:
    """All that the formulas below need of some pairs: w is the chosen answer, l the rejected one."""

    def __init__(self, policy, reference, rows):
        self.rows, self.policy, self.reference = rows, policy, reference
        indices = range(len(rows))
        self.n_w, self.n_l = (torch.tensor(part.lengths) for part in (rows.chosen, rows.rejected))
        shorter = torch.minimum(self.n_w, self.n_l)
        for name, part in (("w", rows.chosen), ("l", rows.rejected)):
            own = [token_log_probabilities(policy, rows.prompts[row], part[row]) for row in indices]
            with torch.no_grad():
                base = [token_log_probabilities(reference, rows.prompts[row], part[row])[0] for row in indices]
            pi, ref = (torch.stack([logps.sum() for logps in values]) for values in ([one for one, _ in own], base))
            heads = [
                one[:end].sum() - other[:end].sum() for (one, _), other, end in zip(own, base, shorter, strict=True)
            ]
            weight = torch.stack([(one - squares).mean() for one, squares in own]).detach().exp()
            setattr(self, f"pi_{name}", pi)
            setattr(self, f"ref_{name}", ref)
            setattr(self, f"d_{name}", pi - ref)
            setattr(self, f"head_{name}", torch.stack(heads))
            setattr(self, f"weight_{name}", weight)
        self.d = self.d_w - self.d_l
        self.nll = -self.pi_w.sum() / self.n_w.sum()

    def kl(self):
        """The mean log-ratio of the answers to other prompts."""
        rows, total, count = self.rows, 0.0, 0
        for row in range(len(rows)):
            for part in (rows.chosen, rows.rejected):
                answer = part[rows.mismatched[row]]
                own, base = (
                    token_log_probabilities(model, rows.prompts[row], answer)[0].sum()
                    for model in (self.policy, self.reference)
                )
                total, count = total + float(own - base), count + 1
        return total / count


def log_sigmoid(value):
    return -torch.logaddexp(torch.zeros_like(value), -value)


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def logistic(value, smoothing=0.0):
    return -(1 - smoothing) * log_sigmoid(value) - smoothing * log_sigmoid(-value)


def dpo(c, beta):  # arXiv 2305.18290, equation 7
    return logistic(beta * c.d).mean()


def cdpo(c, beta, label_smoothing):  # Mitchell 2023: labels are flipped with probability ε
    return logistic(beta * c.d, label_smoothing).mean()


def robust(c, beta, label_smoothing):  # arXiv 2403.00409, section 3.1
    kept, flipped = -log_sigmoid(beta * c.d), -log_sigmoid(-beta * c.d)
    return (((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)).mean()


def ipo(c, beta):  # arXiv 2310.12036, equation 17, log-ratios averaged over tokens
    return ((c.d_w / c.n_w - c.d_l / c.n_l - 1 / (2 * beta)) ** 2).mean()


def ipo_sum(c, beta):  # arXiv 2310.12036, equation 17
    return ((c.d - 1 / (2 * beta)) ** 2).mean()


def hinge(c, beta):  # arXiv 2305.10425 with a reference, as in arXiv 2309.06657
    return torch.clamp(1 - beta * c.d, min=0).mean()


def dpo_forward_kl(c, beta):  # arXiv 2309.16240, table 1: f'(u) = -1/u
    return logistic(beta * (-1 / c.d_w.exp() + 1 / c.d_l.exp())).mean()


def dpo_js(c, beta):  # arXiv 2309.16240, table 1: f'(u) = log(2u / (1 + u))
    won, lost = c.d_w.exp(), c.d_l.exp()
    return logistic(beta * ((2 * won / (1 + won)).log() - (2 * lost / (1 + lost)).log())).mean()


def dpo_alpha(c, beta, alpha):  # arXiv 2309.16240, table 1: f'(u) = (1 - u^-α) / α
    return logistic(beta * ((1 - c.d_w.exp() ** -alpha) / alpha - (1 - c.d_l.exp() ** -alpha) / alpha)).mean()


def r_dpo(c, beta, alpha):  # arXiv 2403.19159: the reward less α a token is what is aligned to, so r = βΔ + α|y|
    return logistic(beta * c.d_w + alpha * c.n_w - (beta * c.d_l + alpha * c.n_l)).mean()


def ld_dpo(c, beta, ld_alpha):  # arXiv 2409.06411: tokens beyond the shorter length count α times
    won, lost = (head + ld_alpha * (whole - head) for head, whole in ((c.head_w, c.d_w), (c.head_l, c.d_l)))
    return logistic(beta * (won - lost)).mean()


def wpo(c, beta):  # arXiv 2406.11827, weights aligned with the sum of squared probabilities
    return (c.weight_w * c.weight_l * logistic(beta * c.d)).mean()


def rpo(c, beta, rpo_alpha):  # arXiv 2404.19733, equation 1, likelihood over all chosen tokens
    return dpo(c, beta) + rpo_alpha * c.nll


def tr_dpo(c, beta, alpha, sync_steps):  # arXiv 2404.09656: dpo against the reference as it is now
    return dpo(c, beta)


def exo(c, beta, label_smoothing):  # arXiv 2402.00856, equation 16
    q = sigmoid(beta * c.d)
    return (q * (q / (1 - label_smoothing)).log() + (1 - q) * ((1 - q) / label_smoothing).log()).mean()


def nca(c, beta):  # arXiv 2402.05369, section 4.1
    won, lost = beta * c.d_w, beta * c.d_l
    return (-log_sigmoid(won) - log_sigmoid(-won) / 2 - log_sigmoid(-lost) / 2).mean()


def bco(c, beta, shift_decay):  # arXiv 2404.04656, the shift being 0 before the first step
    return (-log_sigmoid(beta * c.d_w) - log_sigmoid(-beta * c.d_l)).mean()


def sppo(c, beta):  # arXiv 2405.00675, equation 4.7 with η = 1/β and hard labels
    return ((c.d_w - 1 / (2 * beta)) ** 2 + (c.d_l + 1 / (2 * beta)) ** 2).mean()


def aot(c, beta, label_smoothing):  # arXiv 2406.05882, paired
    own, base = (c.pi_w - c.pi_l).sort().values, (c.ref_w - c.ref_l).sort().values
    return logistic(beta * (own - base), label_smoothing).mean()


def aot_unpaired(c, beta, label_smoothing):  # arXiv 2406.05882, unpaired
    return logistic(beta * (c.d_w.sort().values - c.d_l.sort().values), label_smoothing).mean()


def apo_zero(c, beta):  # arXiv 2408.06266, equation 7
    return (1 - sigmoid(beta * c.d_w) + sigmoid(beta * c.d_l)).mean()


def apo_down(c, beta):  # arXiv 2408.06266, equation 8
    return (sigmoid(beta * c.d_w) + 1 - sigmoid(beta * c.d)).mean()


def discopop(c, beta, tau):  # arXiv 2406.08414, equation 5
    x = beta * c.d
    share = sigmoid(x / tau)
    return ((1 - share) * torch.log1p(torch.exp(-x)) + share * torch.exp(-x)).mean()


def kto(c, beta, desirable_weight, undesirable_weight):  # arXiv 2402.01306, equations 6 to 8
    z = max(c.kl(), 0.0)
    desirable = desirable_weight * (1 - sigmoid(beta * (c.d_w - z)))
    undesirable = undesirable_weight * (1 - sigmoid(beta * (z - c.d_l)))
    return torch.cat([desirable, undesirable]).mean()


def apo_zero_unpaired(c, beta, desirable_weight, undesirable_weight):  # arXiv 2408.06266, equation 7, term by term
    desirable, undesirable = desirable_weight * (1 - sigmoid(beta * c.d_w)), undesirable_weight * sigmoid(beta * c.d_l)
    return torch.cat([desirable, undesirable]).mean()


def cpo(c, beta, cpo_alpha):  # arXiv 2401.08417, equations 3 to 6
    return logistic(beta * (c.pi_w - c.pi_l)).mean() + cpo_alpha * c.nll


def simpo(c, beta, gamma):  # arXiv 2405.14734, equation 6
    return logistic(beta / c.n_w * c.pi_w - beta / c.n_l * c.pi_l - gamma).mean()


def cpo_simpo(c, beta, gamma, cpo_alpha):  # both of the above
    return simpo(c, beta, gamma) + cpo_alpha * c.nll


def alphapo(c, beta, gamma, alpha):  # arXiv 2501.03884: r(y) = (1 - π(y)^(-α/|y|)) / α
    won, lost = ((1 - (pi / n).exp() ** -alpha) / alpha for pi, n in ((c.pi_w, c.n_w), (c.pi_l, c.n_l)))
    return logistic(beta * (won - lost) - gamma).mean()


def orpo(c, **values):  # arXiv 2403.07691, equations 2, 6 and 7: NLL of the answers' tokens
    p_w, p_l = (c.pi_w / c.n_w).exp(), (c.pi_l / c.n_l).exp()
    odds_ratio = (p_w / (1 - p_w)) / (p_l / (1 - p_l))
    return c.nll + values["lambda"] * logistic(odds_ratio.log()).mean()


FORMULAS = {
    formula.__name__.replace("_", "-"): formula
    for formula in (
        *(dpo, cdpo, robust, ipo, ipo_sum, hinge, dpo_forward_kl, dpo_js, dpo_alpha, r_dpo, ld_dpo, wpo, rpo, tr_dpo),
        *(exo, nca, bco, sppo, aot, aot_unpaired, apo_zero, apo_down, discopop),
        *(kto, apo_zero_unpaired, cpo, simpo, cpo_simpo, alphapo, orpo),
    )
}


def trainer_of(world, tmp_path, method, values, batch):
    config = tiny_training.align_config(method, hyperparameters=values, batch_size=batch, micro_batch_size=batch)
    task = alignment_task(world.data, [world.reference], [world.mismatched], config)
    model, _ = load_model(world.model, "cpu")
    arguments = common_arguments(config, task.schedule, tmp_path)
    trainer = alignment_trainer(model, load_tokenizer(world.model), task, config, arguments, [])
    trainer.follow(task.schedule, {}, 0.0)
    return trainer, task


def first_loss(trainer, rows):
    """The loss of some rows as if they were a whole step."""
    batches, _ = trainer.get_batch_samples(iter([trainer.collate(rows)]), 1, "cpu")
    trainer.step_pairs, trainer.step_batches = len(rows), 1
    trainer.step_tokens = int(trainer.rows.chosen.lengths[list(rows)].sum())
    trainer.model.train()
    return trainer.compute_loss(trainer.model, batches[0])


def test_every_method_has_a_formula_here():
    assert FORMULAS.keys() == METHODS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize(
    ("method", "changes"), [*((name, {}) for name in FORMULAS), ("ipo", {"beta": 0.01}), ("kto", {"beta": 0.3})]
)
def test_loss_and_gradient_are_those_of_the_paper(world, reference_model, tmp_path, method, changes):
    values = tiny_training.HYPERPARAMETERS[method] | changes
    trainer, task = trainer_of(world, tmp_path, method, values, batch=16)
    if method == "tr-dpo":
        trainer.ref_model.load_state_dict(reference_model.float().state_dict())
        reference_model.double()
    loss = first_loss(trainer, range(16))
    loss.backward()

    policy = LlamaForCausalLM.from_pretrained(world.model, dtype=torch.float64)
    expected = FORMULAS[method](Case(policy, reference_model, task.rows), **values)
    expected.backward()
    if method == "kto":
        assert trainer.stored_metrics()["kl"][0] > 0.1, "the case must exercise the KL term"
    assert math.isclose(loss.item(), expected.item(), rel_tol=LOSS)
    gradients = {name: weight.grad for name, weight in policy.named_parameters()}
    for name, weight in trainer.model.named_parameters():
        error = (weight.grad.double() - gradients[name]).norm() / gradients[name].norm()
        assert error < GRADIENT, name


@pytest.mark.parametrize(("method", "expected"), [("dpo", math.log(2)), ("ipo", 25.0), ("kto", 0.5), ("cpo", None)])
def test_a_tie_has_the_loss_of_a_coin(world, tmp_path, method, expected):
    """Row 1 has the same answer twice: nothing is preferred, whatever the policy is."""
    config = tiny_training.align_config(method, hyperparameters=tiny_training.HYPERPARAMETERS[method])
    if method == "kto":
        values = config.hyperparameters | {"desirable_weight": 1.0, "undesirable_weight": 1.0}
        config = config.model_copy(update={"hyperparameters": values})
    trainer, task = trainer_of(world, tmp_path, method, config.hyperparameters, batch=16)
    loss = first_loss(trainer, [1]).item()
    model = trainer.model
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
