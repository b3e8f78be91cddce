"""Detect failures of training on sampled completions; symptoms as in `trl_ext.trainers.monitoring.symptoms`."""

import math

from trl_ext.support.counts import count
from trl_ext.trainers.monitoring.log_window import PATIENCE, Facts, Records, first_and_last, mean

NOTHING = 1e-9
"""A deviation of 0 stays below this after rounding."""

LEFT_OUT = "completions/left_out"
"""Share of the completions of a rollout that are not in the loss."""

LOOK = (
    "Check the rewards of some completions (`log_completions: true` prints both). Does the reward read the right column? Do "
    "completions end within `max_completion_length`? Does `reward_clip_range` clip all rewards to one value?"
)


def exploding_kl(records: Records, facts: Facts) -> str | None:
    """The sampled KL exceeds half a nat per token and 10 nats per completion.

    Tuned policies are below 0.1 nats per token. The second bound is for completions of a few tokens, which can have a large
    KL per token without a failure.
    """
    recent = [record for record in records if "kl/sequence" in record][-3:]
    if len(recent) < 3:
        return None
    kl, length = mean(recent, "kl/sequence"), mean(recent, "completions/mean_length")
    if length is None or kl < 10 or kl < 0.5 * length:
        return None
    return (
        f"the KL to the reference is {kl:.0f} nats per completion of {length:.0f} tokens. The policy is far from the reference, "
        f"and high scores are probably for gibberish. Raise {_hold(records)}, lower `learning_rate` or `num_iterations`, and "
        "read some completions."
    )


def collapsed_entropy(records: Records, facts: Facts) -> str | None:
    """The entropy of a policy that samples its own data has fallen by nine tenths, to 0.1 nats per token or less.

    It then samples nearly the same completion each time, and without exploration there is nothing to learn from.
    """
    ends = first_and_last(records, "entropy")
    if ends is None or "score" not in records[-1] or ends[1] > 0.1 or ends[1] > 0.1 * ends[0]:
        return None
    return (
        f"the policy's entropy has collapsed from {ends[0]:.2f} to {ends[1]:.3f} nats per token. It samples nearly the same "
        f"completion every time. Raise {_hold(records)} or `temperature`, or lower `learning_rate`."
    )


def constant_reward(records: Records, facts: Facts) -> str | None:
    """All completions of the last 20 steps had the same score, for all prompts.

    A sparse reward may be 0 in a rollout or two. Over 20 steps it means that nothing has been learned from it.
    """
    if left_out(records, facts) is not None:
        return None
    recent = _rollouts(records)
    scores = [float(record["score"]) for record in recent]
    if not scores or any(not record["score/std"] < NOTHING for record in recent):
        return None
    if not all(math.isclose(score, scores[0], rel_tol=1e-6, abs_tol=NOTHING) for score in scores):
        return None
    left = "Only the KL and the critic's error are left to learn from"
    if samples_pairs(records):
        left = "All pairs are tied, and nothing is learned"
    elif not any("explained_variance" in record for record in records):
        left = "Only the KL is left to learn from"
    return (
        f"every completion of {_since(recent)} had the score {scores[-1]:g}. {left}. {LOOK} If success is rare, start with easier "
        "prompts, sample more completions per prompt (`num_generations`), or reward partial success."
    )


def ties_alone(records: Records, facts: Facts) -> str | None:
    """In the last 20 steps, scores differed between prompts but never within one: sampled pairs, or groups of completions."""
    recent = _rollouts(records)
    if not recent or any(_tied(record) != 1 for record in recent):
        return None
    if constant_reward(records, facts) is not None or left_out(records, facts) is not None:
        return None
    if samples_pairs(records):
        tied = f"all pairs of {_since(recent)} are tied, and nothing is learned"
    else:
        tied = f"no prompt of {_since(recent)} had completions with different scores, and nothing is learned from the rewards"
    return (
        f"{tied}. Scores differ between prompts but never between completions of a prompt. {LOOK} Raise `temperature` or "
        "`num_generations`, or use a reward with finer steps."
    )


def left_out(records: Records, facts: Facts) -> str | None:
    """All completions of the last 20 steps were left out of the loss, so that not even a KL is left to learn from."""
    recent = _rollouts(records, LEFT_OUT)
    if not recent or any(record[LEFT_OUT] != 1 for record in recent):
        return None
    return f"all completions of {_since(recent)} were left out of the loss, so nothing is learned. {_why_left_out(recent)}"


SYMPTOMS = (exploding_kl, collapsed_entropy, constant_reward, ties_alone, left_out)


def silent_rollouts(records: Records) -> str | None:
    """At the end of a run: the number of records in which no prompt had completions with different scores."""
    shares = [share for record in records if (share := _tied(record)) is not None]
    silent = sum(share == 1 for share in shares)
    if not silent:
        return None
    return (
        f"in {silent} of {count(len(shares), 'logged rollouts')} no prompt had completions with different scores, so nothing was "
        "learned from their rewards. Raise `temperature` or `num_generations`, or use a reward with finer steps."
    )


def empty_rollouts(records: Records) -> str | None:
    """At the end of a run: the number of records in which all completions were left out of the loss."""
    rollouts = [record for record in records if LEFT_OUT in record]
    empty = [record for record in rollouts if record[LEFT_OUT] == 1]
    if not empty:
        return None
    return (
        f"in {len(empty)} of {count(len(rollouts), 'logged rollouts')} all completions were left out of the loss, so nothing was "
        f"learned from them. {_why_left_out(empty)}"
    )


AT_END = {
    "silent_rollouts": (silent_rollouts, {"constant_reward", "ties_alone"}),
    "empty_rollouts": (empty_rollouts, {"left_out"}),
}
"""Counts for the end of a run, each with the symptoms that have said it before."""


def is_silent(records: Records) -> bool:
    """Whether the last rollouts taught nothing, which explains a gradient of zero."""
    taught = [teaches for record in records if (teaches := _teaches(record)) is not None]
    return bool(taught) and not any(taught[-3:])


def nothing_to_learn(records: Records) -> str | None:
    """Why no rollout of a run taught anything, as a clause; `None` if one did, or if the run samples nothing."""
    rollouts = [record for record in records if _teaches(record) is not None]
    if not rollouts or any(map(_teaches, rollouts)):
        return None
    if all(record.get(LEFT_OUT) == 1 for record in rollouts):
        return "all completions were left out of the loss"
    return "the completions of each prompt had equal scores"


def _teaches(record: dict) -> bool | None:
    """Whether a rollout has something to learn from; `None` for a record without a new rollout."""
    tied, left = _tied(record), record.get(LEFT_OUT)
    return None if tied is None and left is None else tied != 1 and left != 1


def _why_left_out(records: Records) -> str:
    """Why all completions of these records were left out, and what to do."""
    if not any("score" in record for record in records):
        return "No reward function gave a completion a score. Does the reward read the right column?"
    if any(record.get("completions/eos_share") for record in records):
        return (
            "Each had no score, or was truncated, and `mask_truncated_completions: true` leaves truncated ones out. Look at the "
            "rewards (`log_completions: true` prints them), and raise `max_completion_length`."
        )
    return (
        "All were truncated, and `mask_truncated_completions: true` leaves truncated ones out. Raise `max_completion_length`, or set "
        "`mask_truncated_completions: false`."
    )


def _tied(record: dict) -> float | None:
    """Share of the prompts of a rollout whose completions all have the same score, where completions are compared.

    `None` where all are left out of the loss, which is another reason.
    """
    return None if record.get(LEFT_OUT) == 1 else record.get("pairs/ties", record.get("groups/ties"))


def _rollouts(records: Records, *names: str) -> Records:
    """The last records with new completions, as many as span 20 steps, three or more; empty if there are fewer.

    Args:
        names: Metrics that such a record has.
    """
    fresh = [record for record in records if all(name in record for name in names or ("score/std", "score"))]
    for number in range(3, len(fresh) + 1):
        if fresh[-1]["step"] - fresh[-number]["step"] >= PATIENCE - 1:
            return fresh[-number:]
    return []


def _since(recent: Records) -> str:
    return f"steps {recent[0]['step']} to {recent[-1]['step']}"


def samples_pairs(records: Records) -> bool:
    """Whether the run trains on sampled pairs."""
    return any("pairs/ties" in record for record in records)


def _hold(records: Records) -> str:
    """The setting that keeps a policy near its reference."""
    return "`beta`" if samples_pairs(records) else "`kl_coef`"
