"""What goes wrong where a policy learns from completions it samples; symptoms as in `trl_ext.trainers.monitoring.symptoms`."""

import math

from trl_ext.trainers.monitoring.log_window import PATIENCE, Facts, Records, first_and_last, mean

NOTHING = 1e-9
"""What rounding makes of a deviation of 0."""

LOOK = (
    "Look at what the reward says of some completions (`log_completions: true` prints both): whether it reads the right "
    "column, sees the end of an answer within `max_completion_length`, and is not cut to one value by `reward_clip_range`."
)


def exploding_kl(records: Records, facts: Facts) -> str | None:
    """The sampled KL exceeds half a nat per token and 10 nats per completion.

    Tuned policies lie below a tenth of a nat per token. The second bound is for answers of a few tokens, whose KL is rightly
    as large as the choice among them.
    """
    recent = [record for record in records if "kl/sequence" in record][-3:]
    if len(recent) < 3:
        return None
    kl, length = mean(recent, "kl/sequence"), mean(recent, "completions/mean_length")
    if length is None or kl < 10 or kl < 0.5 * length:
        return None
    return (
        f"the KL to the reference is {kl:.0f} nats per completion of {length:.0f} tokens: the policy has left the reference, "
        f"and its score is likely one for gibberish. Raise {_hold(records)}, lower `learning_rate` or `num_iterations`, and read "
        "some completions."
    )


def collapsed_entropy(records: Records, facts: Facts) -> str | None:
    """A policy that samples its own data has lost nine tenths of its entropy, down to 0.1 nats per token.

    It then writes nearly the same completion each time, and no exploration is left to learn from.
    """
    ends = first_and_last(records, "entropy")
    if ends is None or "score" not in records[-1] or ends[1] > 0.1 or ends[1] > 0.1 * ends[0]:
        return None
    return (
        f"the policy's entropy has collapsed from {ends[0]:.2f} to {ends[1]:.3f} nats per token: it samples nearly the same "
        f"completions every time. Raise {_hold(records)} or `temperature`, or lower `learning_rate`."
    )


def constant_reward(records: Records, facts: Facts) -> str | None:
    """Every completion of the last 20 steps had the same score, of whatever prompt.

    A reward that is rarely earned may be 0 in a rollout or two; over 20 steps nothing has been learned from it.
    """
    recent = _rollouts(records)
    scores = [float(record["score"]) for record in recent]
    if not scores or any(not record["score/std"] < NOTHING for record in recent):
        return None
    if not all(math.isclose(score, scores[0], rel_tol=1e-6, abs_tol=NOTHING) for score in scores):
        return None
    left = "all that is left to learn from is the KL and the critic's own error"
    if samples_pairs(records):
        left = "all pairs are tied, and nothing is learned"
    return (
        f"every completion of {_since(recent)} was scored {scores[-1]:g}: {left}. {LOOK} Where success is rare, begin with easier "
        "prompts, sample more completions of each (`num_generations`), or reward what leads there."
    )


def ties_alone(records: Records, facts: Facts) -> str | None:
    """Scores differ, but never within a prompt, in the last 20 steps of training on sampled pairs."""
    recent = _rollouts(records)
    if not recent or any(record.get("pairs/ties") != 1 for record in recent):
        return None
    if constant_reward(records, facts) is not None:
        return None
    return (
        f"all pairs of {_since(recent)} are tied, and nothing is learned: completions differ in score between prompts and never "
        f"within one. {LOOK} Raise `temperature` or `num_generations`, or give a reward with finer steps."
    )


SYMPTOMS = (exploding_kl, collapsed_entropy, constant_reward, ties_alone)


def is_tied(records: Records) -> bool:
    """Whether no pair of the last rollouts has a preference: reason enough for a gradient of zero."""
    ties = [record["pairs/ties"] for record in records if "pairs/ties" in record]
    return bool(ties) and all(share == 1 for share in ties[-3:])


def _rollouts(records: Records) -> Records:
    """The last records of freshly sampled completions, so many that they span 20 steps, and three; or none."""
    fresh = [record for record in records if "score/std" in record and "score" in record]
    for count in range(3, len(fresh) + 1):
        if fresh[-1]["step"] - fresh[-count]["step"] >= PATIENCE - 1:
            return fresh[-count:]
    return []


def _since(recent: Records) -> str:
    return f"steps {recent[0]['step']} to {recent[-1]['step']}"


def samples_pairs(records: Records) -> bool:
    """Whether pairs are chosen by a reward among sampled completions."""
    return any("pairs/ties" in record for record in records)


def _hold(records: Records) -> str:
    """What keeps a policy near its reference."""
    return "`beta`" if samples_pairs(records) else "`kl_coef`"
