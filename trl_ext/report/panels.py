"""The panels of `curves.png`: which metrics each shows, and over which range at least."""

from typing import NamedTuple


class Panel(NamedTuple):
    """One panel.

    Attributes:
        title: Quantity and unit.
        series: Names of the metrics; the same with `eval_` in front are drawn beside them.
        least: Smallest vertical range, in the unit of the quantity.
        low, high: Ends of the range that are always shown.
        share: Smallest vertical range, as a share of the largest value.
    """

    title: str
    series: tuple[str, ...]
    least: float
    low: float | None = None
    high: float | None = None
    share: float = 0.0


PANELS = {
    "margin": Panel("margin: log-ratio of chosen − rejected, nats", ("log_ratio/margin",), 1.0),
    "log_ratio": Panel("log-ratio log π − log π_ref, nats", ("log_ratio/chosen", "log_ratio/rejected"), 1.0),
    "reward_margin": Panel("implicit reward margin: β × nats", ("rewards/margins",), 0.5),
    "logps": Panel("log-probability of a completion, nats", ("logps/chosen", "logps/rejected"), 10.0),
    "loss": Panel("loss", ("loss",), 0.0, share=0.1),
    "score": Panel("score and shaped reward", ("score", "shaped_reward"), 0.2),
    "kl": Panel("KL to the reference, nats per completion", ("kl/sequence",), 0.5, 0),
    "length": Panel("tokens per completion", ("completions/mean_length",), 10.0, 0),
    "reward_model_margin": Panel("reward of chosen − rejected", ("margin",), 1.0),
    "accuracy": Panel("reward accuracy", ("rewards/accuracies", "accuracy"), 1.0, 0, 1),
    "token_accuracy": Panel("token accuracy", ("mean_token_accuracy",), 0.2),
    "entropy": Panel("entropy per token, nats", ("entropy",), 0.5),
    "rewards": Panel("implicit reward: β × nats", ("rewards/chosen", "rewards/rejected"), 0.5),
    "estimators": Panel("KL estimators, nats per token", ("kl/k1", "kl/k2", "kl/k3"), 0.02, 0),
    "value_loss": Panel("value loss", ("value_loss",), 0.0, 0),
    "explained": Panel("explained variance of the returns", ("explained_variance",), 2.0, -1, 1),
    "clipped": Panel("share clipped", ("clip_fraction/policy", "clip_fraction/value"), 0.1, 0),
    "equal": Panel("share of prompts whose completions have equal scores", ("groups/ties",), 1.0, 0, 1),
    "ended": Panel("share of completions that ended", ("completions/eos_share",), 1.0, 0, 1),
    "baseline": Panel("KTO baseline z, nats", ("kl",), 0.5, 0),
    "grad_norm": Panel("gradient norm", ("grad_norm",), 0.0, 0),
    "learning_rate": Panel("learning rate", ("learning_rate",), 0.0, 0),
}
"""All panels, in the order in which they are drawn."""

INSTEAD = {"margin": "reward_margin", "log_ratio": "logps"}
"""The panel that takes the place of a large one where a run logs nothing for it, as without a reference."""
