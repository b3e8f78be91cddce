"""Estimate advantages: pure functions of rewards per token, one per file, found by the file's name.

    from trl_ext.rl import advantages
    advantages.available()                                        # every name
    info = advantages.describe("grpo")                            # its declaration, read without importing torch
    info.needs_critic, info.needs_groups, info.needs_greedy
    info.check({"scale_rewards": "std"})                          # a list of problems, one sentence each
    advantages.grpo(rewards, mask, groups, scale_rewards="batch")     # (B, C)
    adv, returns = advantages.gae(rewards, values, mask)              # the one with a critic returns its target as well

To add an advantage, add a file `<name>.py` to this folder, like the existing ones. Its signature is its declaration:
parameters without a default name the tensors it reads, those with one are its hyperparameters. `add_up`, which sums a
tensor over processes, is neither.

A completion whose mask is 0 everywhere counts in no mean. To keep one in its group's mean without learning from it, such as a
truncated one, pass its mask here and clear it for the loss.

`moments` and `whiten` are those of `trl_ext.rl.masked`. `Groups` adds up over the completions of each prompt.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from trl_ext.rl.advantages._declaration import TENSORS, AdvantageInfo
from trl_ext.rl.advantages._registry import available, describe, get, readers

NOTATION = (
    "r_t = reward of token t, with the score on the last token and a KL in the reward subtracted; R = Σ_t r_t; "
    "G = completions of the prompt that have a score; mean, std over these; |y| = tokens of a completion; "
    "V = value of the critic; whiten = minus the mean of all tokens of the batch, divided by their deviation"
)

__all__ = ["NOTATION", "TENSORS", "AdvantageInfo", "available", "describe", "get", "readers"]


class _Package(ModuleType):
    """The name of a file means the function in it: `advantages.gae(…)`, not `advantages.gae.gae(…)`.

    Python binds a file's module to its name when the file is imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        is_file = isinstance(value, ModuleType) and not name.startswith("_")
        super().__setattr__(name, getattr(value, name, value) if is_file else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Imported when first used, so that declarations are read without torch.
    if name in ("moments", "whiten"):
        return getattr(importlib.import_module("trl_ext.rl.masked"), name)
    if name == "Groups":
        return importlib.import_module("trl_ext.rl.advantages._groups").Groups
    if not name.startswith("_") and name in available():
        return get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
