"""What each KL estimator gives where it is placed: the value it estimates and the gradient it follows.

π the policy, ref the reference, d = log π − log ref of a sampled token (level `token`) or of the whole completion
(level `sequence`). The wanted gradient is that of the reverse KL of completions, KL(π‖ref) = E_π[Σ_t d_t].
Every statement here is checked by enumeration in tests/rl/test_truth_table.py.
"""

ESTIMATOR_NAMES = ("k1", "k2", "k3")
PLACEMENTS = ("reward", "loss")
LEVELS = ("token", "sequence")

DEFAULT_LEVEL = {"reward": "token", "loss": "sequence"}
"""The level that gives the reverse-KL gradient with the fitting estimator: k1 in the reward, k2 in the loss."""

INSTEAD = "use k1 in the reward, or k2 in the loss at sequence level"

VALUES = {
    "k1": "d, an unbiased estimate of KL(π‖ref) that can be negative",
    "k2": "½d², a biased estimate of KL(π‖ref), right to second order near the reference and of little variance there",
    "k3": "exp(−d) − 1 + d, an unbiased estimate of KL(π‖ref) that is never negative; its variance explodes where "
    "the policy has left what the reference does",
}

EXACT = {("k1", "reward", "token"), ("k1", "reward", "sequence"), ("k2", "loss", "sequence")}

SECOND_ORDER = "second order near the reference, and it can point the wrong way"
FORWARD = "the forward KL: close to the reverse KL's near the reference, drifting apart from it, with a large variance"

GRADIENTS = {
    ("k1", "reward", "token"): ("∇KL(π‖ref)", "exactly, of whole completions (with γ = 1)"),
    ("k1", "reward", "sequence"): ("∇KL(π‖ref)", "exactly, of whole completions (with γ = 1)"),
    ("k2", "reward", "token"): ("E[½Σd²·∇log π]", SECOND_ORDER),
    ("k2", "reward", "sequence"): ("E[½(Σd)²·∇log π]", SECOND_ORDER),
    ("k3", "reward", "token"): (
        "∇KL(π‖ref) − ∇KL(ref‖π)",
        f"the second term at the states the policy visits; {SECOND_ORDER}",
    ),
    ("k3", "reward", "sequence"): ("∇KL(π‖ref) − ∇KL(ref‖π)", SECOND_ORDER),
    ("k1", "loss", "token"): ("0", "in expectation; it is noise and no regularisation"),
    ("k1", "loss", "sequence"): ("0", "in expectation; it is noise and no regularisation"),
    ("k2", "loss", "token"): ("∇KL(π‖ref) at fixed states", "what a token does to later tokens is left out"),
    ("k2", "loss", "sequence"): ("∇KL(π‖ref)", "exactly, of whole completions"),
    ("k3", "loss", "token"): ("∇KL(ref‖π) at fixed states", FORWARD),
    ("k3", "loss", "sequence"): ("∇KL(ref‖π)", FORWARD),
}
"""Per cell the expected gradient on fresh samples, and a remark."""

REASONS = {
    ("k2", "reward"): "½d² is the same for tokens above and below the reference, so as a reward it does not say in "
    "which direction the reference lies",
    ("k3", "reward"): "the part exp(−d) − 1 of the reward subtracts the gradient of the forward KL from that of the "
    "reverse KL, and near the reference the two cancel",
    ("k1", "loss"): "its derivative is ∇log π, whose mean over the policy's own samples is zero, so it adds noise "
    "and holds nothing back",
    ("k2", "loss"): "differentiated token by token it leaves out what a token does to the KL of those that follow, "
    "so it stops short of the optimum",
    ("k3", "loss"): "its gradient is that of the forward KL(ref‖π), which matches the reverse KL only near the "
    "reference and has a large variance away from it",
}


def check(estimator: str, placement: str, level: str | None = None) -> str:
    """The level of a cell, the placement's default if none is given.

    Raises:
        ValueError: A name is none of the allowed ones.
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
    """What the estimator's value estimates, and which gradient it gives when placed there, as text.

    Args:
        estimator: `k1`, `k2` or `k3`.
        placement: `reward` (subtracted from the reward, a weight of ∇log π) or `loss` (differentiated).
        level: `token` or `sequence`; if `None`, `token` for the reward and `sequence` for the loss.
    """
    level = check(estimator, placement, level)
    formula, remark = GRADIENTS[estimator, placement, level]
    return f"value {VALUES[estimator]}; gradient {formula}, {remark}"


def warning(estimator: str, placement: str, level: str | None = None, gamma: float = 1.0) -> str | None:
    """One sentence on why the gradient is not the reverse KL's and what to use instead; `None` where it is.

    Args:
        estimator, placement, level: As for `bias`.
        gamma: Discount of the rewards, the KL's among them where it is placed there.
    """
    level = check(estimator, placement, level)
    where = f"{estimator} in the {placement} at {level} level"
    if not is_exact(estimator, placement, level):
        return f"{where} does not give the gradient of KL(π‖ref): {REASONS[estimator, placement]}; {INSTEAD}."
    if placement == "reward" and gamma != 1:
        return (
            f"{where} gives the gradient of KL(π‖ref) with γ = 1 only: with gamma {gamma:g} the KL of later tokens counts "
            "less; use gamma 1, or k2 in the loss at sequence level."
        )
    return None
