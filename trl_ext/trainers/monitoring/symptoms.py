"""What a run's logged numbers say is going wrong.

A symptom is a function of the records of training steps, as transformers logs them, and of `Facts` about the run. It gives
a sentence that says what was seen and what to do, or nothing. Each threshold lies far outside what healthy runs show: what
DPO does to every run (both answers get somewhat less likely, accuracy climbs) is not worth a warning.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from trl_ext.trainers.monitoring import rollout_symptoms
from trl_ext.trainers.monitoring.log_window import PATIENCE, WINDOW, Facts, Records, first_and_last, last_steps, mean


def falling_chosen(records: Records, facts: Facts) -> str | None:
    """The chosen answers lost 0.5 nats per token while margins rose.

    Every token of theirs is then 1.6 times less likely than at the start; over 100 tokens that is a factor of e⁵⁰. A fall
    of a tenth of that is what DPO does to a policy that was fine-tuned on these answers. Known as likelihood displacement
    (Razin et al. 2024, arXiv:2410.08847).
    """
    ends = first_and_last(records, "logps_per_token/chosen")
    margins = first_and_last(records, "rewards/margins")
    if ends is None or margins is None or ends[0] - ends[1] < 0.5 or margins[1] <= margins[0]:
        return None
    fall = ends[0] - ends[1]
    return (
        f"the chosen answers have become less likely, by {fall:.2f} nats per token (every token {math.exp(fall):.1f} times), "
        f"while margins rise: what is good is unlearned too. {_hold(facts)}"
    )


def falling_rejected(records: Records, facts: Facts) -> str | None:
    """The rejected answers lost 3 nats per token: each token of theirs is 20 times less likely than at the start.

    Nothing is left to learn from them, and what lowers them further is the policy leaving the reference: the divergence
    that preference losses imply and do not log. In a healthy run they lose some tenths.
    """
    ends = first_and_last(records, "logps_per_token/rejected")
    if ends is None or ends[0] - ends[1] < 3:
        return None
    fall = ends[0] - ends[1]
    return (
        f"the rejected answers have become {math.exp(fall):.0f} times less likely per token than at the start: the policy is "
        f"far from its reference, and still moving. {_hold(facts)}"
    )


def idle_baseline(records: Records, facts: Facts) -> str | None:
    """KTO's baseline was 0 for 30 steps while the desirable completions fell by a tenth of a nat per token.

    The baseline alone is no fault: it is a mean clamped at 0, and 0 in many a healthy run, whose mismatched completions
    become less likely. But a policy that lowers desirable completions is what it is there to see, and at 0 it does not.
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
        f"KTO's baseline z has been 0 for 30 steps while desirable completions fell by {fall:.1f} nats below the reference: "
        f"it does not hold them up. Try {few}a higher `desirable_weight`, or a lower `learning_rate` (it is "
        f"{facts.learning_rate:g})."
    )


def no_gradient(records: Records, facts: Facts) -> str | None:
    """The gradient was zero, or as good as, in the last 3 records; otherwise norms lie above 1e-4."""
    norms = [float(record["grad_norm"]) for record in records if record.get("grad_norm") is not None]
    if len(norms) < 3 or records[-1]["step"] < 5 or any(not norm < 1e-7 for norm in norms[-3:]):
        return None
    if rollout_symptoms.is_tied(records):
        return None  # for `constant_reward` or `ties_alone` to say
    if any(norm >= 1e-7 for norm in norms):
        return (
            "the gradient has become zero: the weights have grown so large that the model's output no longer depends on them. "
            f"Lower `learning_rate` (it is {facts.learning_rate:g}) and start again from before that."
        )
    return (
        "the gradient is zero: nothing is learned. Chosen and rejected answers are the same, or differ only beyond "
        "`max_length`."
    )


def constant_loss(records: Records, facts: Facts) -> str | None:
    """20 steps after warmup the loss is within 1e-5 of its value at policy = reference, as if no step were taken."""
    settled = [record for record in records if record["step"] > facts.warmup_steps]
    recent = last_steps(settled, PATIENCE)
    if recent is None or facts.initial_loss is None:
        return None
    if not all(math.isclose(float(record["loss"]), facts.initial_loss, rel_tol=1e-5) for record in recent):
        return None
    return (
        f"the loss is still {facts.initial_loss:.4f}, its value at policy = reference, after {recent[-1]['step']} steps: the "
        f"weights hardly move. Raise `learning_rate` (it is {facts.learning_rate:g})."
    )


def perfect_accuracy(records: Records, facts: Facts) -> str | None:
    """Every given pair was ranked right from the second record on, 200 pairs in a row, within the first 100 steps.

    Preferences of people and of judges are noisy: some of 200 are ranked wrong however good the policy, and all of them as
    soon as it starts only where something else than quality tells the answers apart.
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
                f"every one of {seen} pairs has been ranked right since step {records[0]['step']}: something gives the rejected "
                "answers away (a marker, an empty or cut-off answer, always the longer one, the same pairs seen before). "
                "Read some of the data."
            )
    return None


def skipped_steps(records: Records, facts: Facts) -> str | None:
    """A step was left out (`trl_ext.trainers.common.nonfinite`)."""
    if not records[-1].get("skipped_steps"):
        return None
    return (
        "a step was left out because its loss or gradient was not finite; `skipped_steps` counts them in the metrics."
    )


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
    """What keeps a preference policy nearer to where it started."""
    ways = [f"lower `learning_rate` (it is {facts.learning_rate:g})"]
    if facts.beta is not None:
        ways.insert(0, f"raise `beta` (it is {facts.beta:g})")
    if "sft" in facts.loss:
        ways.insert(0, "raise the weight of `sft`")
    elif facts.is_paired:
        flag = f"`--loss '{{{facts.loss[0]}: 1, sft: 0.1}}'`" if len(facts.loss) == 1 else "`sft: 0.1` in the mix"
        ways.insert(0, f"add an SFT term ({flag})")
    return f"To hold it, {' or '.join([', '.join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]}."
