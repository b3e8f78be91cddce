"""Check the folder of a reward model that was trained as an adapter."""

import json
import os
from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter_types
from trl_ext.model_files.adapter import CONFIG, WEIGHTS
from trl_ext.model_files.weights import header

HEAD_SUFFIXES = (".score.weight", ".classifier.weight")


def problem(folder: str, base: str | None = None) -> str | None:
    """The end of a sentence about a folder that cannot be used as a reward adapter; `None` if it can.

    Args:
        folder: As the user gave it.
        base: Name or path of the policy's base model; not compared if `None`.
    """
    path = Path(folder).expanduser()
    absent = [name for name in (CONFIG, WEIGHTS) if not (path / name).exists()]
    if absent:
        return (
            f"which holds no {' and no '.join(absent)}. Give the run directory of a reward model trained with an adapter "
            "(`trainer: reward`)."
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        shapes = {name: tensor["shape"] for name, tensor in header(path / WEIGHTS).tensors.items()}
    except ValueError as error:
        return f"which cannot be read ({error}). It is damaged or was not downloaded completely: copy it again."
    own = config.get("base_model_name_or_path")
    if base is not None and own is not None and not is_same(own, base):
        return (
            f"which was trained on {own}, but the policy's base is {base}. An adapter works only on its own base: train it on "
            "this one, or use that model as a reward function (`reward_funcs`)."
        )
    if config.get("task_type") not in (None, "SEQ_CLS"):
        return (
            f"which is an adapter for {config['task_type']}, but a reward adapter is for SEQ_CLS, a sequence classifier. Give "
            "the run directory of a reward model (`trainer: reward`)."
        )
    if adapter_types.moves_the_base(config):
        return (
            f"which started as {config.get('init_lora_weights')!r} and changes the weights of the base, which it would share with "
            "the policy. Train the reward model with the default `init_lora_weights`."
        )
    heads = heads_of(shapes)
    if len(heads) != 1 or shapes[heads[0]][0] != 1:
        return (
            "which has no head with one output (score.weight of shape (1, H)). Train it with `modules_to_save: [score]`, "
            "so that its head is saved."
        )
    return None


def heads_of(names: Any) -> list[str]:
    """The names of classification heads among those of an adapter's weights."""
    return [name for name in names if name.endswith(HEAD_SUFFIXES)]


def is_same(name: str, other: str) -> bool:
    """Whether two names or paths mean the same model."""
    first, second = (os.path.expanduser(each) for each in (name, other))
    return name == other or (os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second))
