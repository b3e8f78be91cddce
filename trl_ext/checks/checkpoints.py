"""Rules about the run directory and its checkpoints."""

import os
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import is_policy_gradient, note, problem
from trl_ext.checks.settings import Settings
from trl_ext.support.paths import absent, unwritable


@problem("resume_from_checkpoint", recipe_only=True)
def resume(s: Settings) -> Iterator[str]:
    given = s["resume_from_checkpoint"]
    if not isinstance(given, str):
        return
    path = Path(given).expanduser()
    found = sorted(path.glob("checkpoint-*"), key=os.path.getmtime) if path.is_dir() else []
    if not path.is_dir():
        yield f"{s.where('resume_from_checkpoint')} is {given}, and {absent(path, 'folder')}"
    elif not (path / "trainer_state.json").exists():
        hint = f"did you mean {found[-1]}?" if found else "name a folder called checkpoint-…, or give true."
        yield f"{s.where('resume_from_checkpoint')} is {given}, which holds no trainer_state.json: {hint}"


@problem("output_dir", recipe_only=True)
def output(s: Settings) -> Iterator[str]:
    given = s["output_dir"]
    if isinstance(given, str) and (end := unwritable(Path(given))) is not None:
        yield f"{s.where('output_dir')} is {given}, and {end}"


@problem("load_best_model_at_end", "eval_strategy")
def best_without_evaluation(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and s["eval_strategy"] in (None, "no"):
        yield (
            f"{s.where('load_best_model_at_end')} needs evaluations to find the best checkpoint: add `eval_strategy: steps` "
            "and `save_strategy: steps`."
        )


@note("load_best_model_at_end", "metric_for_best_model", applies_to=is_policy_gradient)
def best_by_loss(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and s["metric_for_best_model"] in (None, "loss", "eval_loss"):
        yield (
            f"{s.where('load_best_model_at_end')} compares losses, and PPO's losses do not measure how good a policy is: set "
            "`metric_for_best_model: score` and `greater_is_better: true`."
        )
