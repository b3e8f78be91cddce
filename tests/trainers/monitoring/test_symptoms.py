"""Each symptom shows in a trace made for it, in no healthy one, and not before there is reason."""

import math

import pytest

from trl_ext.trainers.monitoring.log_window import Facts
from trl_ext.trainers.monitoring.symptoms import SYMPTOMS

FACTS = Facts(("dpo",), is_paired=True, initial_loss=math.log(2), beta=0.1, learning_rate=5e-6, examples_per_step=16)
KTO = Facts(("kto",), initial_loss=0.5, beta=0.1, learning_rate=5e-6, examples_per_step=8)


def trace(steps: int = 60, every: int = 2, **series) -> list[dict]:
    """Records of a healthy DPO run; `series` replaces values, as functions of the step."""
    healthy = {
        "loss": lambda t: math.log(2) * math.exp(-t / 50),
        "grad_norm": lambda t: 0.5 + 0.1 * math.sin(t),
        "rewards/margins": lambda t: t / 40,
        "rewards/chosen": lambda t: -t / 400,
        "rewards/accuracies": lambda t: 0 if t == 1 else min(0.5 + t / 50, 0.95),
        "logps_per_token/chosen": lambda t: -1.0 - t / 600 + 0.05 * math.sin(t),
        "logps_per_token/rejected": lambda t: -1.2 - t / 100,
        "entropy": lambda t: 1.1,
    }
    kept = {name: f for name, f in {**healthy, **series}.items() if f is not None}
    return [{"step": t, **{name: f(t) for name, f in kept.items()}} for t in range(1, steps + 1, every)]


def said(records: list[dict], facts: Facts = FACTS) -> dict[str, tuple[int, str]]:
    """Symptom -> the step at which it first shows, and its sentence."""
    found = {}
    for count in range(1, len(records) + 1):
        for name, symptom in SYMPTOMS.items():
            if name not in found and (text := symptom(records[:count], facts)) is not None:
                found[name] = (records[count - 1]["step"], text)
    return found


@pytest.mark.parametrize("every", [1, 2, 10])
def test_nothing_is_said_of_a_healthy_run(every):
    assert said(trace(steps=300, every=every)) == {}


def test_chosen_answers_that_fall_while_margins_rise():
    """They lose 0.02 nats per token and step; ends of five records each lie 0.5 nats apart at step 36."""
    falls = {"logps_per_token/chosen": lambda t: -1 - 0.02 * t}
    (step, text) = said(trace(**falls))["falling_chosen"]
    first, last = (sum(range(1, 10, 2)) / 5, sum(range(step - 8, step + 1, 2)) / 5)
    assert 0.5 <= 0.02 * (last - first) < 0.5 + 0.02 * 2
    assert "--loss '{dpo: 1, sft: 0.1}'" in text and "raise `beta` (it is 0.1)" in text and "5e-06" in text
    assert said(trace(**falls, **{"rewards/margins": lambda t: 0.0})) == {}
    mixed = said(trace(**falls), Facts(("dpo", "sft"), is_paired=True))
    assert "raise the weight of `sft`" in mixed["falling_chosen"][1]
    unpaired = said(trace(**falls), Facts(("kto",), beta=0.1))
    assert "sft" not in unpaired["falling_chosen"][1]


def test_rejected_answers_that_fall_without_end():
    falls = {"logps_per_token/rejected": lambda t: -1 - 0.1 * t}
    assert list(said(trace(**falls))) == ["falling_rejected"]


def test_a_kl_that_explodes():
    """0.5 nats per token of 20 are 10 nats: at a tenth of the step number per token, after step 5."""
    ppo = {name: None for name in trace()[0] if name not in ("step", "loss", "grad_norm", "entropy")}
    ppo |= {"score": lambda t: t, "completions/mean_length": lambda t: 20.0, "kl/sequence": lambda t: 2.0 * t}
    found = said(trace(**ppo), Facts())
    assert list(found) == ["exploding_kl"] and "`kl_coef`" in found["exploding_kl"][1]
    assert found["exploding_kl"][0] == 7  # the mean of three records, 6, 10 and 14
    assert said(trace(**{**ppo, "kl/sequence": lambda t: 5 + t / 60}), Facts()) == {}
    # Answers of one token: the KL is the choice among them.
    short = {"completions/mean_length": lambda t: 1.0, "kl/sequence": lambda t: 3.0}
    assert said(trace(**{**ppo, **short}), Facts()) == {}


def test_a_baseline_at_zero_is_a_fault_only_where_desirable_completions_fall():
    unpaired = {"rewards/accuracies": None, "kl": lambda t: 0.0, "logps/chosen": lambda t: -20 - 20 * t / 600}
    assert said(trace(**unpaired), KTO) == {}
    falls = {"rewards/chosen": lambda t: -t / 100}  # at β = 0.1 and 20 tokens, 0.1 nats per token at step 20
    found = said(trace(**unpaired, **falls), KTO)
    assert list(found) == ["idle_baseline"] and found["idle_baseline"][0] == 31
    assert "more examples per step than 8" in found["idle_baseline"][1]
    moves = {"kl": lambda t: 0.1 if t % 20 == 1 else 0.0}
    assert said(trace(**{**unpaired, **falls, **moves}), KTO) == {}


def test_a_gradient_of_zero():
    nothing = {"grad_norm": lambda t: 0.0, "loss": lambda t: math.log(2), "rewards/margins": lambda t: 0.0}
    found = said(trace(every=1, **nothing))
    assert found["no_gradient"][0] == 5 and "`max_length`" in found["no_gradient"][1]
    stops = said(trace(every=1, grad_norm=lambda t: 0.5 if t < 30 else 0.0))
    assert stops["no_gradient"][0] == 32 and "Lower `learning_rate`" in stops["no_gradient"][1]
    assert said(trace(every=1, grad_norm=lambda t: 1e-5)) == {}


def test_a_loss_that_stays_where_it_began():
    stays = {"loss": lambda t: math.log(2) * (1 + 3e-6 * math.sin(t))}
    found = said(trace(**stays))
    assert list(found) == ["constant_loss"] and found["constant_loss"][0] == 21
    warm = Facts(("dpo",), is_paired=True, initial_loss=math.log(2), warmup_steps=30)
    assert said(trace(**stays), warm)["constant_loss"][0] == 51
    assert said(trace(loss=lambda t: math.log(2) * (1 + 1e-4 * math.sin(t)))) == {}


def test_accuracy_that_is_perfect_from_the_start():
    """Records of 2 steps of 16 pairs: 200 of them after the seventh beyond the first, which ends at step 15."""
    perfect = {"rewards/accuracies": lambda t: 0.0 if t == 1 else 1.0}
    assert said(trace(**perfect))["perfect_accuracy"][0] == 15
    # Perfect only later, as a run on separable data becomes, or all but one.
    assert said(trace(**{"rewards/accuracies": lambda t: 0.9 if t < 5 else 1.0})) == {}
    assert said(trace(**{"rewards/accuracies": lambda t: 0.97 if t == 9 else perfect["rewards/accuracies"](t)})) == {}
    # With records every 500 steps there is no seeing how it began.
    assert said(trace(steps=2000, every=500, **perfect)) == {}


def test_entropy_that_collapses():
    falls = {"entropy": lambda t: 1.2 * math.exp(-t / 10)}
    assert said(trace(**falls)) == {}  # of fixed data
    found = said(trace(**falls, score=lambda t: t), FACTS)
    assert list(found) == ["collapsed_entropy"]
    assert said(trace(entropy=lambda t: 0.08, score=lambda t: t)) == {}  # it was never higher


def test_steps_that_were_left_out_are_passed_over():
    lost = {"logps_per_token/chosen": lambda t: math.nan if t == 59 else -1 - t / 600, "loss": lambda t: math.nan}
    assert said(trace(**lost, grad_norm=lambda t: math.nan)) == {}
    assert list(said(trace(**lost, skipped_steps=lambda t: 1))) == ["skipped_steps"]
