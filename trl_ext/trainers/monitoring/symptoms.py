"""Detect common failures of a run from its logged metrics.

A symptom is a function of the records of training steps, as transformers logs them, and of `Facts` about the run. It returns
a text with the observation and the remedy, or `None`. Each threshold is far outside the range of healthy runs: in every DPO
run both answers become somewhat less likely and the accuracy rises, so this causes no warning.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from trl_ext.trainers.monitoring import rollout_symptoms
from trl_ext.trainers.monitoring.log_window import PATIENCE, WINDOW, Facts, Records, first_and_last, last_steps, mean


def falling_chosen(records: Records, facts: Facts) -> str | None:
    """The log-probability of chosen answers fell by 0.5 nats per token while margins rose.

    Each of their tokens is then 1.6 times less likely than at the start; over 100 tokens that is a factor of e⁵⁰. With a
    policy that was fine-tuned on these answers, DPO causes a tenth of this fall. Known as likelihood displacement (Razin et
    al. 2024, arXiv:2410.08847).
    """
    ends = first_and_last(records, "logps_per_token/chosen")
    margins = first_and_last(records, "rewards/margins")
    if ends is None or margins is None or ends[0] - ends[1] < 0.5 or margins[1] <= margins[0]:
        return None
    fall = ends[0] - ends[1]
    return (
        f"the chosen answers have become less likely, by {fall:.2f} nats per token (a factor of {math.exp(fall):.1f}), "
        f"while margins rise. The policy unlearns good answers too. {_hold(facts)}"
    )


def falling_rejected(records: Records, facts: Facts) -> str | None:
    """The log-probability of rejected answers fell by 3 nats per token: each token is 20 times less likely than at the start.

    Nothing is left to learn from them. A further fall means that the policy moves away from its reference, a divergence
    that preference losses imply and do not log. In healthy runs the fall is a few tenths of a nat.
    """
    ends = first_and_last(records, "logps_per_token/rejected")
    if ends is None or ends[0] - ends[1] < 3:
        return None
    fall = ends[0] - ends[1]
    return (
        f"the rejected answers have become {math.exp(fall):.0f} times less likely per token than at the start. The policy is "
        f"far from its reference and still moving. {_hold(facts)}"
    )


def idle_baseline(records: Records, facts: Facts) -> str | None:
    """KTO's baseline was 0 for 30 steps while the desirable completions fell by a tenth of a nat per token.

    The baseline alone is no failure: it is a mean clamped at 0, and 0 in many healthy runs, where mismatched completions
    become less likely. But it should react when desirable completions become less likely, and at 0 it does not.
    """
    recent = last_steps(records, 30)
    if recent is None or facts.beta is None or any(record.get("kl") != 0 for record in recent):
        return None
    means = (mean(recent[-WINDOW:], f"{name}/chosen") for name in ("rewards", "logps", "logps_per_token"))
    reward, logps, per_token = means
    if None in (reward, logps, per_token):
        return None
    fall, length = -reward / facts.beta, logps / per_token
    if fall < 0.1 * length:
        return None
    few = f"more examples per step than {facts.examples_per_step}, " if facts.examples_per_step < 16 else ""
    return (
        f"KTO's baseline z has been 0 for 30 steps while desirable completions fell to {fall:.1f} nats below the reference. "
        f"The baseline does not prevent this. Try {few}a higher `desirable_weight`, or a lower `learning_rate` (it is "
        f"{facts.learning_rate:g})."
    )


def no_gradient(records: Records, facts: Facts) -> str | None:
    """The gradient norm was below 1e-7 in the last 3 records; normal norms are above 1e-4."""
    norms = [float(record["grad_norm"]) for record in records if record.get("grad_norm") is not None]
    if len(norms) < 3 or records[-1]["step"] < 5 or any(not norm < 1e-7 for norm in norms[-3:]):
        return None
    if rollout_symptoms.is_silent(records):
        return None  # `constant_reward`, `ties_alone` or `left_out` reports it
    if any(norm >= 1e-7 for norm in norms):
        return (
            "the gradient has become zero, because the weights are so large that the model's output no longer depends on them. "
            f"Lower `learning_rate` (it is {facts.learning_rate:g}) and start again, or from an earlier checkpoint."
        )
    return (
        "the gradient is zero, so nothing is learned. Chosen and rejected answers are the same, or differ only beyond "
        "`max_length`. Check the data, or raise `max_length`."
    )


def constant_loss(records: Records, facts: Facts) -> str | None:
    """For 20 steps after warmup the loss was within 1e-5 (relative) of its value at policy = reference."""
    settled = [record for record in records if record["step"] > facts.warmup_steps]
    recent = last_steps(settled, PATIENCE)
    if recent is None or facts.initial_loss is None:
        return None
    if not all(math.isclose(float(record["loss"]), facts.initial_loss, rel_tol=1e-5) for record in recent):
        return None
    return (
        f"the loss is still {facts.initial_loss:.4f}, its value at policy = reference, after {recent[-1]['step']} steps. The "
        f"weights hardly change. Raise `learning_rate` (it is {facts.learning_rate:g})."
    )


def perfect_accuracy(records: Records, facts: Facts) -> str | None:
    """All pairs since the second record were ranked correctly, 200 or more, within the first 100 steps.

    Preferences of people and judges are noisy, so a good policy still ranks some of 200 pairs wrongly. If it ranks all
    of them correctly from the start, something other than quality distinguishes the answers.
    """
    name = next((name for name in ("rewards/accuracies", "accuracy") if records and name in records[-1]), None)
    if name is None or rollout_symptoms.samples_pairs(records):
        return None
    seen = 0
    for before, record in pairwise(records):
        if record["step"] > 100 or float(record.get(name, 0)) < 1:
            return None
        seen += (record["step"] - before["step"]) * facts.examples_per_step
        if seen >= 200:
            return (
                f"all {seen} pairs since step {records[0]['step']} have been ranked correctly. Something other than quality "
                "probably identifies the rejected answers: a marker, empty or truncated answers, their length, or pairs that "
                "were trained on before. Read some of the data."
            )
    return None


def skipped_steps(records: Records, facts: Facts) -> str | None:
    """A step was skipped (`trl_ext.trainers.common.nonfinite`)."""
    if not records[-1].get("skipped_steps"):
        return None
    return "a step was skipped, because its loss or gradient was not finite. The metric `skipped_steps` counts such steps."


SYMPTOMS: dict[str, Callable[[Records, Facts], str | None]] = {
    symptom.__name__: symptom
    for symptom in (
        falling_chosen,
        falling_rejected,
        idle_baseline,
        no_gradient,
        constant_loss,
        perfect_accuracy,
        *rollout_symptoms.SYMPTOMS,
        skipped_steps,
    )
}


def _hold(facts: Facts) -> str:
    """Advice: keep a preference policy closer to its start."""
    ways = [f"lower `learning_rate` (it is {facts.learning_rate:g})"]
    if facts.beta is not None:
        ways.insert(0, f"raise `beta` (it is {facts.beta:g})")
    if "sft" in facts.loss:
        ways.insert(0, "raise the weight of `sft`")
    elif facts.is_paired:
        flag = f"`--loss '{{{facts.loss[0]}: 1, sft: 0.1}}'`" if len(facts.loss) == 1 else "`sft: 0.1` in the mix"
        ways.insert(0, f"add an SFT term ({flag})")
    return f"To prevent this, {' or '.join([', '.join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]}."
