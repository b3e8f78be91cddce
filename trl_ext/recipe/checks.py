"""What can be known to be wrong before any weights or data are read. One check, one function.

A check gets the merged `Settings` and yields sentences: what was given, why it cannot work, what to do next.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from trl_ext.losses import LossInfo, MixInfo
from trl_ext.recipe import data_checks, model_checks, online, packages, ppo, unread
from trl_ext.recipe.bounds import BOUNDS, outside
from trl_ext.recipe.paths import absent, unwritable
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Settings
from trl_ext.recipe.trackers import report_to

SEVERAL_GPUS = "Remove it, and use `accelerate launch --multi_gpu` for several GPUs."


def check(settings: Settings, kind: str = "paired", loss: LossInfo | MixInfo | None = None) -> list[str]:
    """All sentences of all checks.

    Args:
        kind: What kind of training it is, a key of `schema.CONFIGS`.
        loss: What is trained, if it is a loss and there is such a one.
    """
    of_kind = {"ppo": ppo.CHECKS, "online": online.checks(loss), "reward": (model_checks.base_of_reward,)}.get(
        kind, ()
    )
    replaced = {"ppo": ppo.REPLACED, "online": online.REPLACED}.get(kind, ())
    general = [one for one in CHECKS if one.__name__ not in replaced]
    return [problem for one in (*general, *packages.checks(kind), *of_kind) for problem in one(settings)]


def notes(s: Settings, kind: str = "paired") -> list[str]:
    """Sentences about what is no mistake but may not be what was meant."""
    found = []
    if s["datasets"] and s["dataset_name"]:
        found.append(f"{s.named('datasets', 'dataset_name')}: the mixture is used, dataset_name is not.")
    if s["eval_size"] and s["eval_strategy"] in (None, "no"):
        found.append(
            f"{s.where('eval_size')} holds examples out, and without `eval_strategy` the run does not look at them; `trl-ext eval` and `compare` do."
        )
    if s["trust_remote_code"]:
        found.append(
            f"{s.where('trust_remote_code')} is on: Python code that comes with {s['model_name_or_path']} is run on this "
            "computer, with all your rights."
        )
    if s["padding_free"] and kind != "sft":
        found.append(f"{s.where('padding_free')} has no effect since TRL 1.0.")
    found += [*model_checks.continued_adapter(s), *unread.notes(s, kind), *packages.trackers(s)]
    return [*found, *{"ppo": ppo.notes, "online": ppo.users_code}.get(kind, lambda s: [])(s)]


def bounds(s: Settings) -> Iterator[str]:
    yield from outside(s, BOUNDS)


def row_budget(s: Settings) -> Iterator[str]:
    if isinstance(s["row_tokens"], str) and s["row_tokens"] != "auto":
        yield f"{s.where('row_tokens')} is {s['row_tokens']!r}: give a number of tokens, or 'auto'."


def environment(s: Settings) -> Iterator[str]:
    values = s["env"]
    if values is not None and (
        not isinstance(values, dict) or any(isinstance(value, (dict, list)) for value in values.values())
    ):
        yield f"{s.where('env')} is not a mapping of names to values: write {line('env', {'NAME': 'value'})}."


def unsupported(s: Settings) -> Iterator[str]:
    reasons = {
        "deepspeed": f"it counts accumulation steps itself. {SEVERAL_GPUS}",
        "fsdp": f"each GPU holds the whole base model. {SEVERAL_GPUS}",
        "auto_find_batch_size": "after running out of memory it restarts at step 0 with another effective "
        "batch. Remove it, and lower `row_tokens`, which never changes the result.",
        "label_smoothing_factor": "no preference loss reads it. Write `label_smoothing` if yours has it.",
    }
    for key, reason in reasons.items():
        if s[key]:
            yield f"{s.where(key)} is not supported: {reason}"


def checkpoint(s: Settings) -> Iterator[str]:
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


def output(s: Settings) -> Iterator[str]:
    given = s["output_dir"]
    if not isinstance(given, str):
        return
    if (problem := unwritable(Path(given))) is not None:
        yield f"{s.where('output_dir')} is {given}, and {problem}"


def best_model(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and s["eval_strategy"] in (None, "no"):
        yield (
            f"{s.where('load_best_model_at_end')} needs evaluations to tell which is best: add "
            f"{line('eval_strategy', 'steps')} and {line('save_strategy', 'steps')}."
        )


CHECKS = (
    *model_checks.CHECKS,
    *data_checks.CHECKS,
    environment,
    bounds,
    row_budget,
    unsupported,
    checkpoint,
    output,
    report_to,
    best_model,
)
