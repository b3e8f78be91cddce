"""What a run's logged numbers say is going wrong.

A symptom is a function of the records of training steps, as transformers logs them, and of `Facts` about the run. It gives
a sentence that says what was seen and what to do, or nothing. Each threshold lies far outside what healthy runs show: what
DPO does to every run (both answers get somewhat less likely, accuracy climbs) is not worth a warning.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

Records = Sequence[dict[str, Any]]

WINDOW = 5
"""Records that are averaged at either end of a run: single batches differ by tenths of a nat per token."""

PATIENCE = 20
"""Optimizer steps before a run is judged at all."""


@dataclass(frozen=True)
class Facts:
    """What does not change during a run.

    Attributes:
        loss: Name of the loss, or of the parts of a mix; empty where the trainer has none to choose.
        is_paired: Whether it reads pairs.
        initial_loss: The loss at policy = reference, where it is known in advance.
        beta: β of a loss that reads a reference, if it has one.
        learning_rate: The highest one of the schedule.
        warmup_steps: Steps until then.
        examples_per_step: Over all processes.
    """

    loss: tuple[str, ...] = ()
    is_paired: bool = False
    initial_loss: float | None = None
    beta: float | None = None
    learning_rate: float = 0.0
    warmup_steps: int = 0
    examples_per_step: int = 1


def falling_chosen(records: Records, facts: Facts) -> str | None:
    """The chosen answers lost 0.5 nats per token while margins rose.

    Every token of theirs is then 1.6 times less likely than at the start; over 100 tokens that is a factor of e⁵⁰. A fall
    of a tenth of that is what DPO does to a policy that was fine-tuned on these answers. Known as likelihood displacement
    (Razin et al. 2024, arXiv:2410.08847).
    """
    ends = _ends(records, "logps_per_token/chosen")
    margins = _ends(records, "rewards/margins")
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
    ends = _ends(records, "logps_per_token/rejected")
    if ends is None or ends[0] - ends[1] < 3:
        return None
    fall = ends[0] - ends[1]
    return (
        f"the rejected answers have become {math.exp(fall):.0f} times less likely per token than at the start: the policy is "
        f"far from its reference, and still moving. {_hold(facts)}"
    )


def exploding_kl(records: Records, facts: Facts) -> str | None:
    """The sampled KL exceeds half a nat per token and 10 nats per completion.

    Tuned policies lie below a tenth of a nat per token. The second bound is for answers of a few tokens, whose KL is rightly
    as large as the choice among them.
    """
    recent = records[-3:]
    if len(recent) < 3 or not all("kl/sequence" in record for record in recent):
        return None
    kl, length = _mean(recent, "kl/sequence"), _mean(recent, "completions/mean_length")
    if length is None or kl < 10 or kl < 0.5 * length:
        return None
    return (
        f"the KL to the reference is {kl:.0f} nats per completion of {length:.0f} tokens: the policy has left the reference, "
        "and its score is likely one for gibberish. Raise `kl_coef`, lower `learning_rate` or `num_iterations`, and read some "
        "completions."
    )


def idle_baseline(records: Records, facts: Facts) -> str | None:
    """KTO's baseline was 0 for 30 steps while the desirable completions fell by a tenth of a nat per token.

    The baseline alone is no fault: it is a mean clamped at 0, and 0 in many a healthy run, whose mismatched completions
    become less likely. But a policy that lowers desirable completions is what it is there to see, and at 0 it does not.
    """
    recent = _last_steps(records, 30)
    if recent is None or facts.beta is None or any(record.get("kl") != 0 for record in recent):
        return None
    means = (_mean(recent[-WINDOW:], f"{name}/chosen") for name in ("rewards", "logps", "logps_per_token"))
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
    recent = _last_steps(settled, PATIENCE)
    if recent is None or facts.initial_loss is None:
        return None
    if not all(math.isclose(float(record["loss"]), facts.initial_loss, rel_tol=1e-5) for record in recent):
        return None
    return (
        f"the loss is still {facts.initial_loss:.4f}, its value at policy = reference, after {recent[-1]['step']} steps: the "
        f"weights hardly move. Raise `learning_rate` (it is {facts.learning_rate:g})."
    )


def perfect_accuracy(records: Records, facts: Facts) -> str | None:
    """Every pair was ranked right from the second record on, 200 pairs in a row, within the first 100 steps.

    Preferences of people and of judges are noisy: some of 200 are ranked wrong however good the policy, and all of them as
    soon as it starts only where something else than quality tells the answers apart.
    """
    name = next((name for name in ("rewards/accuracies", "accuracy") if records and name in records[-1]), None)
    if name is None:
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


def collapsed_entropy(records: Records, facts: Facts) -> str | None:
    """A policy that samples its own data has lost nine tenths of its entropy, down to 0.1 nats per token.

    It then writes nearly the same completion each time, and no exploration is left to learn from.
    """
    ends = _ends(records, "entropy")
    if ends is None or "score" not in records[-1] or ends[1] > 0.1 or ends[1] > 0.1 * ends[0]:
        return None
    return (
        f"the policy's entropy has collapsed from {ends[0]:.2f} to {ends[1]:.3f} nats per token: it samples nearly the same "
        "completions every time. Raise `kl_coef` or `temperature`, or lower `learning_rate`."
    )


def skipped_steps(records: Records, facts: Facts) -> str | None:
    """A step was left out (`trl_ext.trainers.finite`)."""
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
        exploding_kl,
        idle_baseline,
        no_gradient,
        constant_loss,
        perfect_accuracy,
        collapsed_entropy,
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


def _mean(records: Records, name: str) -> float | None:
    """Mean of what was logged; a step that was left out has logged NaN."""
    values = [float(record[name]) for record in records if record.get(name) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None


def _ends(records: Records, name: str) -> tuple[float, float] | None:
    """Means of the first and the last records that do not overlap, once there are enough of them."""
    if len(records) < 2 * WINDOW or records[-1]["step"] < PATIENCE:
        return None
    first, last = _mean(records[:WINDOW], name), _mean(records[-WINDOW:], name)
    return None if first is None or last is None else (first, last)


def _last_steps(records: Records, steps: int) -> Records | None:
    """The records of the last so many steps; `None` if they do not reach back so far, or are fewer than three."""
    if not records:
        return None
    since = records[-1]["step"] - steps
    recent = [record for record in records if record["step"] > since]
    return recent if len(recent) >= 3 and records[0]["step"] <= since else None
