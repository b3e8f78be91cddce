"""What can be known to be wrong with a recipe that trains a loss on sampled pairs: its loss, rewards, batches, adapter."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from trl_ext.checks import online as rules
from trl_ext.losses import LossInfo, MixInfo
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe import ppo
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Settings


def checks(info: LossInfo | MixInfo | None) -> tuple[Callable[[Settings], Iterator[str]], ...]:
    """The checks of a recipe whose loss is this one; `None` if there is no such loss."""
    return (partial(loss, info=info), bounds, rewards, ppo.reward_adapter, batches, adapter, ppo.unsupported, unread)


def loss(s: Settings, info: LossInfo | MixInfo | None) -> Iterator[str]:
    if info is not None and not info.paired:
        yield f"`trainer: online` samples pairs, and the loss {info.name} reads single answers: choose a loss on pairs."
    if info is not None and info.coupled:
        yield (
            f"The loss {info.name} compares sorted values across a whole step, and micro-batches of sampled pairs are all "
            "there is: choose another."
        )


def bounds(s: Settings) -> Iterator[str]:
    yield from (problem for problem in ppo.bounds(s) if not problem.startswith(s.where("num_generations")))
    for key in ("num_generations", "num_generations_eval"):
        if s[key] is not None and s[key] < 2:
            yield f"{s.where(key)} is {s[key]}: a pair takes at least 2 completions of a prompt."


def rewards(s: Settings) -> Iterator[str]:
    yield from ppo.rewards(s, "`trainer: online`")


def batches(s: Settings) -> Iterator[str]:
    size, generations = s["per_device_train_batch_size"], s["num_generations"]
    if generations and generations > 1 and size % generations:
        yield (
            f"{s.where('per_device_train_batch_size')} counts completions and is {size}: give a multiple of {generations}, "
            "the completions of a prompt (`num_generations`), so that every pair lies in one batch."
        )


def adapter(s: Settings) -> Iterator[str]:
    path = Path(s["model_name_or_path"] or "").expanduser()
    if not s["use_peft"] and not adapter_folder.is_in(path):
        yield (
            f"Policy and reference share one base, told apart by an adapter: add {line('use_peft', True)}, or name the "
            "folder of an adapter to go on from as `model_name_or_path`."
        )


def unread(s: Settings) -> Iterator[str]:
    yield from rules.problems(s)
    for key in rules.OF_A_POLICY_GRADIENT:
        if key in s:
            yield f"{s.where(key)} shapes a policy gradient, and no loss on pairs reads it: remove it."
    if s["sync_ref_model"]:
        yield f"{s.where('sync_ref_model')} is on, and the reference of sampled pairs stays what it is: remove it."


REPLACED = ("unsupported",)
"""General checks whose advice does not hold here."""
