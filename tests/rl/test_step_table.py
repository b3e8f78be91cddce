"""What the table says about an optimizer step, against the sum over all completions that the step can sample."""

import itertools
import math

import pytest
import torch

from trl_ext.kl_audit.steps import Steps, Task, ascend, classify, example, expected_gradient, large_batch_gradient
from trl_ext.rl import advantages, step_table, truth_table
from trl_ext.rl.enumerable import Language, samples
from trl_ext.rl.step_table import (
    ADVANTAGES,
    AGGREGATIONS,
    BIASED,
    EXACT,
    FACTOR,
    LARGE_BATCH,
    OTHER_COEFFICIENT,
    SAME_OPTIMUM,
    Step,
    judge,
)

K1, K2 = ("k1", "reward", "token"), ("k2", "loss", "sequence")
NAMES = [*((name, "group") for name in ADVANTAGES), ("grpo", "batch"), ("grpo", "none")]
SIZE = 2  # completions per prompt


@pytest.mark.parametrize(("name", "scale"), NAMES)
def test_the_verdict_is_what_enumeration_finds(name, scale):
    """A verdict is compared both ways: a claim that is too strong fails, and so does one that is too weak."""
    whole = () if name in step_table.COMPARED else (("k1", "reward", "sequence"),)
    for cell, (aggregation, is_whitened) in itertools.product(
        (K1, *whole, K2), [*((how, False) for how in AGGREGATIONS), ("sum", True), ("sequence", True)]
    ):
        step = Step(*cell, name, aggregation, is_whitened, scale)
        assert classify(step).verdict == judge(step).verdict, step


def test_an_advantage_that_is_not_in_the_table_has_no_verdict():
    """A new advantage touches one file; `trl-ext kl` enumerates it."""
    assert set(ADVANTAGES) <= set(advantages.available())
    assert judge(Step(advantage="mine")) is None


@pytest.mark.parametrize("cell", sorted(set(truth_table.GRADIENTS) - truth_table.EXACT), ids="-".join)
def test_no_step_makes_up_for_the_estimator(cell):
    for step in (Step(*cell, "rloo", "sum"), Step(*cell, "grpo", "token")):
        assert classify(step).verdict == judge(step).verdict == BIASED


def test_k3_plus_in_the_loss_is_k2():
    assert classify(Step("k3+", "loss", "sequence", "rloo", "sum")).verdict == EXACT


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        (Step(lam=0.9, aggregation="sum"), EXACT),  # with the true values
        (Step(gamma=0.9, aggregation="sum"), BIASED),
        (Step(gamma=0.9, aggregation="sum", advantage="reinforce_pp"), BIASED),
        (Step(gamma=0.9, aggregation="sum", advantage="rloo"), EXACT),  # which reads no gamma
        (Step("k2", "loss", aggregation="sum", ratio_level="sequence"), BIASED),
        (Step(aggregation="sum", ratio_level="sequence"), SAME_OPTIMUM),
        (Step(aggregation="sum", ratio_level="sequence", advantage="remax"), BIASED),
        (Step(level="sequence", aggregation="sum", ratio_level="sequence_sum", advantage="remax"), EXACT),
        (Step(aggregation="sum", ratio_level="sequence_sum", advantage="rloo"), EXACT),  # TRL's RLOO
        (Step("k2", "loss", aggregation="sum", ratio_level="sequence", advantage="rloo"), EXACT),
    ],
)
def test_discounts_and_ratios_of_sequences(step, verdict):
    assert classify(step).verdict == judge(step).verdict == verdict


def test_with_a_lambda_below_1_a_wrong_critic_biases_the_gradient(monkeypatch):
    task, logits = example()
    score, kl = task.gradients(logits)
    monkeypatch.setattr(Steps, "_expected_to_go", lambda self: torch.zeros_like(self._rewards))
    for lam, is_exact in ((1.0, True), (0.9, False)):
        found = expected_gradient(task, logits, Step(aggregation="sum", lam=lam))
        assert torch.allclose(found, score - task.kl_coef * kl, atol=1e-9) == is_exact


def by_hand(task, logits, advantage, *, size, in_reward, by_length):
    """The expected gradient over all ordered groups, from the definitions."""
    language, probabilities = task.language, task.language.probabilities(logits)
    log_ratio = (language.logps(logits) - language.logps(task.ref_logits)).sum(-1)
    total = task.scores - task.kl_coef * log_ratio if in_reward else task.scores
    lens = language.mask.sum(-1).double()
    score_function = torch.autograd.functional.jacobian(lambda x: language.logps(x).sum(-1), logits).flatten(1)
    gradient = torch.zeros(score_function.shape[1], dtype=torch.float64)
    for group in itertools.product(range(len(lens)), repeat=size):
        rewards = [total[i].item() for i in group]
        chance = math.prod(probabilities[i].item() for i in group)
        for i, given in zip(group, advantage(rewards), strict=True):
            pull = 0.0 if in_reward else task.kl_coef * log_ratio[i].item()
            weight = (given - pull) / size / (lens[i].item() if by_length else 1)
            gradient += chance * weight * score_function[i]
    return gradient


def leave_one_out(rewards):
    return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]


def standardised(rewards):
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (deviation + 1e-4) for r in rewards]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("name", "advantage"), [("rloo", leave_one_out), ("grpo", standardised)])
@pytest.mark.parametrize("cell", [K1, K2], ids="-".join)
def test_the_enumeration_is_that_of_the_definitions(cell, name, advantage, size):
    task, logits = example()
    for how in ("sum", "sequence"):
        found = expected_gradient(task, logits, Step(*cell, name, how), size)
        expected = by_hand(task, logits, advantage, size=size, in_reward=cell == K1, by_length=how == "sequence")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (Step(advantage="rloo", aggregation="sum"), 1),
        (Step(advantage="dr_grpo", aggregation="sum"), 1 / 2),
        (Step(advantage="rloo", aggregation="constant"), 1 / 4),  # of 4 tokens
        (Step(advantage="dr_grpo", aggregation="constant"), 1 / 8),
        (Step(advantage="remax", aggregation="token"), 16 / (4 + 2 * 5 + 3 + 4 * 6)),  # one over the mean length
    ],
)
def test_factors(step, factor):
    found = classify(step)
    assert found.verdict in (EXACT, FACTOR, LARGE_BATCH) and found.factor == pytest.approx(factor, rel=1e-6)


def deviation(task, logits, *, centred, per_token):
    """σ of the scores (minus the mean of their group) in a batch of all pairs of sixteen completions, n − 1 below."""
    counts = (task.language.probabilities(logits) * 16).round().long()
    drawn = torch.arange(len(counts)).repeat_interleave(counts)
    pairs = torch.cartesian_prod(drawn, drawn)
    values = task.scores[pairs]
    values = (values - values.mean(1, keepdim=True) if centred else values).flatten()
    if per_token:
        values = values.repeat_interleave(task.language.mask.sum(-1)[pairs].flatten())
    return values.std().item()


def test_a_kl_in_the_loss_counts_more_where_only_rewards_are_divided():
    task, logits = example()
    of_scores = deviation(task, logits, centred=False, per_token=False)
    expected = {
        ("dr_grpo", "group"): (2, "kl_coef·G/(G−1)"),
        ("grpo", "none"): (2, "kl_coef·G/(G−1)"),
        ("grpo", "batch"): (2 * (of_scores + 1e-4), "kl_coef·σ·G/(G−1)"),
        ("reinforce_pp", "group"): (deviation(task, logits, centred=False, per_token=True), "kl_coef·σ"),
        ("reinforce_pp_baseline", "group"): (
            2 * deviation(task, logits, centred=True, per_token=True),
            "kl_coef·σ·G/(G−1)",
        ),
    }
    for (name, scale), (coefficient, said) in expected.items():
        step = Step(*K2, name, "sum", scale_rewards=scale)
        found = classify(step)
        assert found.verdict == OTHER_COEFFICIENT and judge(step).coefficient == said
        assert found.coefficient == pytest.approx(task.kl_coef * coefficient, rel=1e-6), name


# What training converges to --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [each for each in NAMES if each != ("grpo", "none")])
def test_every_advantage_reaches_the_optimum_with_k1_in_the_reward(name, scale):
    """Without noise, from the reference, which is 0.5 from the optimum: the deviation of GRPO does not move the optimum."""
    task, _ = example()
    assert task.distance(task.ref_logits) > 0.45 and task.optimum().max() < 0.5
    step = Step(advantage=name, aggregation="token", scale_rewards=scale)

    def direction(logits):
        if step.vanishes_at_optimum:
            return expected_gradient(task, logits, step, SIZE)
        return large_batch_gradient(task, logits, step, size=1, units=2000)  # the table says: for large batches

    assert ascend(task, direction, n_steps=60, learning_rate=0.15)[1] < 0.03


@pytest.mark.parametrize(("name", "distance"), [("reinforce_pp", 0.099), ("remax", 0.139)])
def test_rewards_to_go_do_not_reach_it_with_a_mean_per_sequence(name, distance):
    task, _ = example()
    step = Step(advantage=name, aggregation="sequence")
    found = ascend(task, lambda x: large_batch_gradient(task, x, step, size=1, units=2000), 100, 0.2)[1]
    assert found == pytest.approx(distance, abs=0.005)
    whole = Step(level="sequence", advantage=name, aggregation="sequence")
    optimum = task.language.logits(task.optimum())
    assert expected_gradient(task, optimum, whole).norm() < 1e-7 < 1e-3 < expected_gradient(task, optimum, step).norm()


def test_the_bias_of_whitening_falls_with_the_number_of_completions():
    """At π*, where the gradient should be zero."""
    task, _ = example()
    small = Task(Language(2, 3), task.ref_logits[:3], task.scores[:4], task.kl_coef)
    optimum, step = small.language.logits(small.optimum()), Step(advantage="reinforce_pp", aggregation="sum")
    sizes = [expected_gradient(small, optimum, step, size).norm().item() for size in (4, 8)]
    assert sizes[1] < 0.7 * sizes[0]


def at_fixed_point(task, tilt):
    """The policy π ∝ ref·exp(tilt(π)/kl_coef), by damped iteration, as probabilities (N,)."""
    ref = task.language.logps(task.ref_logits).sum(-1)
    policy = ref.exp()
    for _ in range(2000):
        policy = 0.9 * policy + 0.1 * torch.softmax(ref + tilt(policy) / task.kl_coef, 0)
    return policy


def test_a_mean_per_sequence_with_a_kl_in_the_loss_favours_long_completions():
    """π ∝ ref·exp(score/β + KL·|y|/E|y|): the expected gradient is zero there."""
    task, _ = example()
    ref, lens = task.language.logps(task.ref_logits).sum(-1).exp(), task.language.mask.sum(-1).double()

    def tilt(policy):
        kl = (policy * (policy / ref).log()).sum()
        return task.scores + task.kl_coef * kl * lens / (policy * lens).sum()

    policy = at_fixed_point(task, tilt)
    step = Step(*K2, "rloo", "sequence")
    assert expected_gradient(task, task.language.logits(policy), step).norm() < 1e-6
    assert task.distance(task.language.logits(policy)) == pytest.approx(0.228, abs=0.001)
    assert (policy * lens).sum() > (task.optimum() * lens).sum()


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_grpo_with_a_kl_in_the_loss_converges_to_a_policy_that_hardly_depends_on_the_scale_of_scores(scale):
    """π ∝ ref·exp(f/β), with f(y) the mean advantage of a completion y over its group: ±1/√2 for a pair."""
    task, _ = example()
    task = task._replace(scores=scale * task.scores)
    differences = (task.scores.unsqueeze(1) - task.scores) / 2
    pairs = differences / (differences.abs() * math.sqrt(2) + 1e-4)
    policy = at_fixed_point(task, lambda policy: pairs @ policy)
    step = Step(*K2, "grpo", "sum")
    assert expected_gradient(task, task.language.logits(policy), step).norm() < 1e-6
    if scale == 1:
        assert task.distance(task.language.logits(policy)) == pytest.approx(0.380, abs=0.001)
    unscaled = at_fixed_point(example()[0], lambda policy: pairs @ policy)
    assert (policy - unscaled).abs().sum() / 2 < 1e-6


def test_the_largest_reward_of_a_group_has_a_positive_advantage_and_the_smallest_a_negative_one():
    """So they are zero together only where all rewards are equal, which with k1 in the reward is at π* alone."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]])
    for _ in range(50):
        rewards = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        totals = (rewards * mask).sum(-1)
        for name in (*step_table.COMPARED[:3], "opo"):
            given = advantages.get(name)(rewards, mask, torch.zeros(4, dtype=torch.long))[:, 0]
            assert given[totals.argmax()] > 0 > given[totals.argmin()]


# What is said ----------------------------------------------------------------------------------------------------


def test_a_step_that_moves_the_optimum_is_reported_in_one_sentence_with_a_remedy_that_does_not():
    cells = [
        K1,
        ("k1", "reward", "sequence"),
        K2,
        ("k3", "loss", "token"),
        ("k3+", "loss", "token"),
        ("k1", "loss", None),
    ]
    for cell, (name, scale), how, level in itertools.product(cells, NAMES, AGGREGATIONS, ("token", "sequence")):
        step = Step(*cell, name, how, scale_rewards=scale, ratio_level=level)
        said = step_table.warning(step)
        assert (said is None) == (judge(step).verdict != BIASED)
        if said:
            why, remedy = said.split(". ")
            assert "KL(π‖ref)" in why and remedy.startswith("Use k") and said.endswith("."), said


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            Step("k3", "loss", "token", "grpo", "token"),
            "k3 in the loss at token level does not give the gradient of KL(π‖ref): its gradient is that of the forward "
            "KL(ref‖π), which matches the reverse KL only near the reference and has a large variance far from it. Use k1 in "
            "the reward.",
        ),
        (
            Step("k2", "loss", "sequence", "grpo", "token"),
            "k2 in the loss at sequence level does not lead to the optimum of E[score] − kl_coef·KL(π‖ref) with these settings: "
            "grpo divides rewards by the standard deviation of their group and the KL is not divided. Use k1 in the reward.",
        ),
        (
            Step("k3", "loss", "token", "rloo", "token"),
            "k3 in the loss at token level does not give the gradient of KL(π‖ref): its gradient is that of the forward "
            "KL(ref‖π), which matches the reverse KL only near the reference and has a large variance far from it. Use k1 in "
            "the reward, or k2 or k3+ in the loss at sequence level.",
        ),
        (
            Step(advantage="reinforce_pp", aggregation="sequence"),
            "k1 in the reward at token level does not lead to the optimum of E[score] − kl_coef·KL(π‖ref) with these settings: "
            "each completion is divided by its own length, so a token of a short completion counts more. Use k1 in the "
            "reward, or k2 or k3+ in the loss at sequence level, with `loss_aggregation: token` and "
            "`importance_sampling_level: token`.",
        ),
        (
            Step(gamma=0.9),
            "k1 in the reward at token level gives the gradient of KL(π‖ref) only with gamma 1. With gamma 0.9 the KL of later "
            "tokens counts less. Use gamma 1, or k2 in the loss at sequence level.",
        ),
        (Step(), None),
        (Step(advantage="grpo"), None),
        (Step(advantage="mine"), None),
        (Step("k2", "loss", "sequence", "dr_grpo", "constant"), None),
    ],
)
def test_the_sentences(step, said):
    assert step_table.warning(step) == said


def test_samples_without_order_have_the_weights_of_those_with_order():
    rows, orders = samples(3, 4)
    assert len(rows) == 15 and orders.sum() == 3**4
    probabilities = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert (orders * probabilities[rows].prod(-1)).sum().item() == pytest.approx(1)
    twice = (rows == 0).sum(-1) == 2  # binomial
    assert (orders * probabilities[rows].prod(-1))[twice].sum().item() == pytest.approx(6 * 0.25 * 0.25)


def test_a_language_knows_the_logits_values_and_greedy_completion_of_a_policy():
    task, logits = example()
    language = task.language
    torch.testing.assert_close(language.probabilities(logits), torch.tensor([4, 5, 1, 4, 2], dtype=torch.float64) / 16)
    # of the completions 0, 10, 110, 1110 and 1111; after the first 1 come 5, 1, 4 and 2 sixteenths of a value each
    values = torch.tensor([[8.0], [1], [2], [3], [4]], dtype=torch.float64).expand(5, 4)
    means = language.mean_at(values, language.probabilities(logits))
    assert means[0, 0].item() == pytest.approx((4 * 8 + 5 + 2 + 12 + 8) / 16)
    assert means[4, 1].item() == means[1, 1].item() == pytest.approx((5 + 2 + 12 + 8) / 12)
    assert language.tokens[language.greedy(logits)].tolist() == [1, 1, 1, 0]  # 12/16, then 7/12, 6/7 and 4/6
