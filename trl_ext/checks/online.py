"""What the settings of online preference training do together."""

from collections.abc import Iterator

from trl_ext.checks import rewards
from trl_ext.checks.sampling import Values

OF_A_POLICY_GRADIENT = ("epsilon", "epsilon_high", "normalize_advantages")
"""What TRL's configuration has and no loss on pairs reads."""

HARMFUL = {
    "neftune_noise_alpha": "adds noise to the embeddings of one pass and not of the next, so policy and reference would be "
    "told apart by it",
    "label_smoothing_factor": "would have no effect, as no loss on pairs reads it; some have a `label_smoothing` of their own",
    "torch_compile": "would have no effect, as updates run on the model itself and not on a compiled wrapper",
}


def problems(s: Values) -> Iterator[str]:
    """What cannot work."""
    for key, reason in HARMFUL.items():
        if s[key]:
            yield f"{s.where(key)} {reason}: remove it."
    yield from rewards.problems(s)
