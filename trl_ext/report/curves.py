"""Draw training curves from `metrics.jsonl`."""

from pathlib import Path

from trl_ext.report import metrics_file

PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("implicit reward", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    ("reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies", "accuracy", "eval_accuracy")),
    ("score and shaped reward", ("score", "shaped_reward", "eval_score")),
    ("KL to the reference, nats per completion", ("kl/sequence", "eval_kl/sequence")),
    ("KL estimators, nats per token", ("kl/k1", "kl/k2", "kl/k3")),
    ("value loss", ("value_loss",)),
    ("explained variance of the returns", ("explained_variance",)),
    ("share of clipped ratios and values", ("clip_fraction/policy", "clip_fraction/value")),
    ("tokens per completion", ("completions/mean_length",)),
    ("share of completions that ended", ("completions/eos_share",)),
    ("margin of the reward model", ("margin", "eval_margin")),
    ("token accuracy", ("mean_token_accuracy", "eval_mean_token_accuracy")),
    ("log-probability of the completion", ("logps/chosen", "logps/rejected")),
    ("KTO baseline z", ("kl",)),
    ("entropy per token", ("entropy",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
)


def read(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read the series of a metrics file: name → (steps, values), numbers only."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for record in metrics_file.read(path):
        for name, value in record.items():
            if isinstance(value, int | float):
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return series


def draw(metrics: Path, picture: Path, title: str) -> Path:
    """Draw all panels that have data into one PNG.

    Args:
        metrics: A run's `metrics.jsonl`.
        picture: Path of the PNG.
        title: Title above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    series = read(metrics)
    panels = [
        (heading, [n for n in names if n in series]) for heading, names in PANELS if any(n in series for n in names)
    ]
    columns = min((3, 4), key=lambda n: -len(panels) % n) if len(panels) > 4 else max(1, len(panels))  # fewest gaps
    lines = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (heading, names) in zip(axes, panels, strict=False):
        for name in names:
            steps, values = series[name]
            axis.plot(
                steps,
                values,
                label=_label(name, names),
                linewidth=1.6,
                marker="." if len(steps) < 15 else None,
            )
        axis.set_title(heading, fontsize=10, loc="left")
        axis.set_xlabel("optimizer step", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        if heading == "reward accuracy":
            axis.set_ylim(0, 1.02)
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(picture, dpi=110)
    return picture


def _label(name: str, names: list[str]) -> str:
    """Label of a series within its panel: the quantity and the data, where the series differ in these."""
    stems = {each.removeprefix("eval_") for each in names}
    parts = [name.removeprefix("eval_").split("/")[-1].replace("_", " ")] if len(stems) > 1 else []
    if len({each.startswith("eval_") for each in names}) > 1:
        parts.append("held out" if name.startswith("eval_") else "training")
    return ", ".join(parts)
