"""State for each KL estimator and placement the value that it estimates and the gradient that it gives.

π the policy, ref the reference, d = log π − log ref of a sampled token (level `token`) or of the whole completion
(level `sequence`). The correct gradient is that of the reverse KL of completions, KL(π‖ref) = E_π[Σ_t d_t]. What is left
of it after baselines, whitening and averaging says `trl_ext.rl.step_table`. Liu et al. (arXiv:2510.01555) derive which
combinations are right, Shah et al. (arXiv:2512.21852) compare them in training.

Every statement here is checked by enumeration in tests/rl/test_truth_table.py.
"""

ESTIMATOR_NAMES = ("k1", "k2", "k3", "k3+")
PLACEMENTS = ("reward", "loss")
LEVELS = ("token", "sequence")

DEFAULT_LEVEL = {"reward": "token", "loss": "sequence"}
"""The level at which k1 in the reward and k2 in the loss give the reverse-KL gradient."""

INSTEAD = "Use k1 in the reward, or k2 or k3+ in the loss at sequence level."

VALUES = {
    "k1": "d, an unbiased estimate of KL(π‖ref) that can be negative",
    "k2": "½d², a biased estimate of KL(π‖ref); near the reference it is accurate to second order and has low variance",
    "k3": "exp(−d) − 1 + d, an unbiased estimate of KL(π‖ref) that is never negative; its variance explodes where "
    "the policy is far from the reference",
    "k3+": "the value of k3; in the loss it is differentiated as k2",
}

EXACT = {
    ("k1", "reward", "token"),
    ("k1", "reward", "sequence"),
    ("k2", "loss", "sequence"),
    ("k3+", "loss", "sequence"),
}

SECOND_ORDER = "only second order in d near the reference; can point the wrong way"
FORWARD = "the forward KL: similar to the reverse KL near the reference, different and of large variance far from it"

GRADIENTS = {
    ("k1", "reward", "token"): ("∇KL(π‖ref)", "exact for whole completions (with γ = 1)"),
    ("k1", "reward", "sequence"): ("∇KL(π‖ref)", "exact for whole completions (with γ = 1)"),
    ("k2", "reward", "token"): ("E[½Σd²·∇log π]", SECOND_ORDER),
    ("k2", "reward", "sequence"): ("E[½(Σd)²·∇log π]", SECOND_ORDER),
    ("k3", "reward", "token"): (
        "∇KL(π‖ref) − ∇KL(ref‖π)",
        f"second term at the states that the policy visits; {SECOND_ORDER}",
    ),
    ("k3", "reward", "sequence"): ("∇KL(π‖ref) − ∇KL(ref‖π)", SECOND_ORDER),
    ("k1", "loss", "token"): ("0", "in expectation: adds noise and does not regularise"),
    ("k1", "loss", "sequence"): ("0", "in expectation: adds noise and does not regularise"),
    ("k2", "loss", "token"): ("∇KL(π‖ref) at fixed states", "ignores the effect of a token on later tokens"),
    ("k2", "loss", "sequence"): ("∇KL(π‖ref)", "exact for whole completions"),
    ("k3", "loss", "token"): ("∇KL(ref‖π) at fixed states", FORWARD),
    ("k3", "loss", "sequence"): ("∇KL(ref‖π)", FORWARD),
    ("k3+", "reward", "token"): (
        "∇KL(π‖ref) − ∇KL(ref‖π)",
        f"second term at the states that the policy visits; {SECOND_ORDER}",
    ),
    ("k3+", "reward", "sequence"): ("∇KL(π‖ref) − ∇KL(ref‖π)", SECOND_ORDER),
    ("k3+", "loss", "token"): ("∇KL(π‖ref) at fixed states", "ignores the effect of a token on later tokens"),
    ("k3+", "loss", "sequence"): ("∇KL(π‖ref)", "exact for whole completions"),
}
"""Expected gradient on fresh samples and a remark, per combination of estimator, placement and level."""

REASONS = {
    ("k2", "reward"): "½d² is the same whether the policy is above or below the reference, so as a reward it does "
    "not point towards the reference",
    (
        "k3",
        "reward",
    ): "its part exp(−d) − 1 subtracts the gradient of the forward KL, which cancels that of the reverse "
    "KL near the reference",
    ("k1", "loss"): "its derivative is ∇log π, whose mean over the policy's own samples is zero, so it adds noise "
    "and does not regularise",
    ("k2", "loss"): "differentiated per token, it ignores the effect of a token on the KL of later tokens, so "
    "training stops short of the optimum",
    ("k3", "loss"): "its gradient is that of the forward KL(ref‖π), which matches the reverse KL only near the "
    "reference and has a large variance far from it",
    ("k3+", "reward"): "its value is that of k3, whose part exp(−d) − 1 subtracts the gradient of the forward KL",
    ("k3+", "loss"): "differentiated per token, it ignores the effect of a token on the KL of later tokens, so "
    "training stops short of the optimum",
}


def check(estimator: str, placement: str, level: str | None = None) -> str:
    """The level of a combination; the placement's default if `level` is `None`.

    Raises:
        ValueError: A name is unknown.
    """
    level = DEFAULT_LEVEL.get(placement) if level is None else level
    for what, given, allowed in (
        ("KL estimator", estimator, ESTIMATOR_NAMES),
        ("KL placement", placement, PLACEMENTS),
        ("KL level", level, LEVELS),
    ):
        if given not in allowed:
            raise ValueError(f"There is no {what} {given!r}: choose one of {', '.join(allowed)}.")
    return level


def is_exact(estimator: str, placement: str, level: str | None = None) -> bool:
    """Whether the expected gradient on fresh samples is that of the reverse KL of whole completions."""
    return (estimator, placement, check(estimator, placement, level)) in EXACT


def bias(estimator: str, placement: str, level: str | None = None) -> str:
    """Text: what the estimator's value estimates, and which gradient it gives with this placement.

    Args:
        estimator: `k1`, `k2` or `k3`.
        placement: `reward` (subtracted from the reward, a weight of ∇log π) or `loss` (differentiated).
        level: `token` or `sequence`; if `None`, `token` for the reward and `sequence` for the loss.
    """
    level = check(estimator, placement, level)
    formula, remark = GRADIENTS[estimator, placement, level]
    return f"value {VALUES[estimator]}; gradient {formula}, {remark}"


def warning(estimator: str, placement: str, level: str | None = None, gamma: float = 1.0) -> str | None:
    """Text: why the gradient is not that of the reverse KL, and what to use instead; `None` where it is.

    Args:
        estimator, placement, level: As for `bias`.
        gamma: Discount of the rewards, which include a KL placed in the reward.
    """
    level = check(estimator, placement, level)
    where = f"{estimator} in the {placement} at {level} level"
    if not is_exact(estimator, placement, level):
        return f"{where} does not give the gradient of KL(π‖ref): {REASONS[estimator, placement]}. {INSTEAD}"
    if placement == "reward" and gamma != 1:
        return (
            f"{where} gives the gradient of KL(π‖ref) only with gamma 1. With gamma {gamma:g} the KL of later tokens counts "
            "less. Use gamma 1, or k2 in the loss at sequence level."
        )
    return None
