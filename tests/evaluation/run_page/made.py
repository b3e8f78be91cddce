"""Run directories with records, made without training."""

import json
from pathlib import Path
from typing import Any

from trl_ext import recipe
from trl_ext.recipe import Recipe

RECIPE = "recipe.resolved.yaml"


def estimate(value: float, half: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def both(base: float, tuned: float, half: float = 0.1) -> dict[str, dict[str, float]]:
    return {"base": estimate(base, half), "tuned": estimate(tuned, half)}


def evaluation(accuracy: float = 0.8, kl: float = 1.25, examples: Any = None, **facts: Any) -> dict[str, Any]:
    """As `trl_ext.evaluation.evaluate` writes it. `examples`: (prompt, base's answer, tuned answer, their rewards)."""
    examples = [("Say it.", "It was dull.", "It was good.", (0.0, 1.0))] if examples is None else examples
    return {
        "run": "runs/x",
        "reference": "the same model with its adapter off",
        "data": {"name": "pairs-held-out", "pairs": 7, "was_trained_on": False},
        "ranking": {"log_ratio": {"accuracy": estimate(accuracy), "margin": estimate(2.0)}},
        "log_ratio": {"chosen": estimate(1.0), "rejected": estimate(-1.0)},
        "sampled": {
            "n": 16,
            "max_new_tokens": 24,
            "seed": 0,
            "kl": {"k1": estimate(kl), "k3": estimate(kl + 1)},
            "tokens": both(18, 20),
            "ended": both(0.9, 0.8),
            "scores": {"sentiment": both(0.4, 0.7)},
            "examples": {
                who: [
                    {"prompt": each[0], "text": each[1 + i], "scores": {"sentiment": each[3][i]}} for each in examples
                ]
                for i, who in enumerate(("base", "tuned"))
            },
        },
        **facts,
    }


def judged(judge: str = "longer", rate: float = 0.75, **facts: Any) -> dict[str, Any]:
    """As `trl_ext.evaluation.judged_record` writes it."""
    return {
        "judge": judge,
        "kind": "function",
        "run": "runs/x",
        "base": "the same model with its adapter off",
        "prompts": {"source": "pairs-held-out", "n": 40},
        "sampling": {"max_new_tokens": 24, "temperature": 1.0, "seed": 0},
        "win_rate": estimate(rate),
        "wins": 27,
        "ties": 6,
        "losses": 4,
        "unclear": 3,
        "equal": 2,
        "decided": estimate(27 / 31),
        "position_bias": estimate(0.125),
        "position_bias_to": {"first": 5, "second": 0},
        "length_controlled": None,
        "length_controlled_note": "The regression fits every score exactly.",
        "tokens": both(18, 20),
        "ended": both(0.9, 0.8),
        "usage": None,
        "agreement": None,
        "examples": [{"prompt": "Why?", "base": "No.", "tuned": "Yes.", "verdict": "win"}],
        **facts,
    }


TASKS = {
    "tasks": {
        "arithmetic": {"metric": "acc", "n": 50, **both(0.5, 0.45), "difference": estimate(-0.05)},
        "story": {"metric": "word_perplexity", "n": 50, **both(4321.5, 4300.25, 99), "higher_is_better": False}
        | {"difference": estimate(-21.25, 9)},
    },
    "limit": 50,
    "summary": "No task lost more than its interval.",
}

METRICS = [
    {"step": 1, "seconds": 1.5, "loss": 0.693147, "log_ratio/chosen": 0.0, "log_ratio/rejected": 0.0},
    {"step": 2, "seconds": 3.0, "loss": 0.5, "log_ratio/chosen": 0.25, "log_ratio/rejected": -0.5},
    {"step": 4, "seconds": 63.0, "loss": 0.125, "log_ratio/chosen": 0.75, "log_ratio/rejected": -1.5},
    {"step": 4, "seconds": 63.0, "train_loss": 0.4},
]


def run(
    directory: Path, *, is_finished: bool = True, metrics: Any = METRICS, source: str = "demo", **settings: Any
) -> Recipe:
    """Make the directory of a run of a recipe with these settings; returns the recipe."""
    directory.mkdir(parents=True)
    made = recipe.load(source, settings)
    made.dump(directory / RECIPE)
    if metrics:
        lines = "".join(f"{json.dumps(record)}\n" for record in metrics)
        (directory / "metrics.jsonl").write_text(lines, encoding="utf-8")
    if is_finished:
        (directory / "adapter_config.json").write_text("{}")
    return made


def leave(directory: Path, **records: Any) -> None:
    """Write records: `eval_x` into eval-x.json."""
    directory.mkdir(exist_ok=True)
    for name, content in records.items():
        file = directory / f"{name.replace('_', '-')}.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
