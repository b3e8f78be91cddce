"""Name the commands that make sense after a run."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from trl_ext.demo import EMBEDDED
from trl_ext.recipe import Recipe, names

PLACEHOLDER = "RECIPE.yaml"


def next_commands(recipe: Recipe, directory: Path, has_adapter: bool) -> list[tuple[str, str]]:
    """Up to three commands, each with its purpose.

    Args:
        recipe: The run's recipe.
        directory: The run's directory.
        has_adapter: Whether an adapter was trained; else all weights were.
    """
    run, method = shlex.quote(str(directory)), recipe.method
    if method.trains_scores:
        found = [(f"run {PLACEHOLDER} --trainer ppo --reward_adapter {run}", "train a policy on this reward")]
    else:
        found = [(f"chat {run} --compare", "talk to the trained model and to its base")]
        if recipe.get("dataset_name") == EMBEDDED and recipe.loss is not None:
            source = shlex.quote(names.word(recipe.path))
            other = "ipo" if recipe.loss != "ipo" else "dpo"
            found.append((f"run {source} --loss {other}", "train with another loss"))
            if method.is_default:
                found.append((f"compare {source} --losses dpo,ipo,simpo,kto", "train four losses and compare them"))
        elif method.samples_completions and not method.has_loss:
            found.append((f"kl {run}", "check the KL estimators on the trained policy"))
        elif method.reads_preferences:
            found.append((f"eval {run}", "accuracy, margin and KL on held-out data"))
        else:
            found.append((f"run {PLACEHOLDER} --model_name_or_path {run}", "continue with preferences"))
        if has_adapter:
            found.append((f"merge {run} --output {run}-merged", "merge the adapter into the weights"))
    program = _program()
    commands = [(f"{program} {command}", purpose) for command, purpose in found[:3]]
    width = max(len(command) for command, _ in commands)
    return [(command.ljust(width), purpose) for command, purpose in commands]


def _program() -> str:
    """How this program is called here: `trl-ext` where it is on the path, as in an activated environment."""
    if shutil.which("trl-ext"):
        return "trl-ext"
    called = Path(sys.argv[0])
    if called.name == "trl-ext" and called.exists():
        return shlex.quote(str(called))
    return f"{shlex.quote(sys.executable)} -m trl_ext"
