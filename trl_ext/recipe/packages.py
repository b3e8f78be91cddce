"""Packages that settings need and that need not be there, looked for without importing any."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import partial

from trl_ext.checks import optimizers
from trl_ext.recipe.settings import Settings

OPTIMIZERS = {
    r"galore_": ("galore_torch", "galore-torch"),
    r"apollo_": ("apollo_torch", "apollo-torch"),
    r"(ada)?lomo": ("lomo_optim", "lomo-optim"),
    r"grokadamw": ("grokadamw", "grokadamw"),
    r"schedule_free_": ("schedulefree", "schedulefree"),
    r"stable_adamw": ("optimi", "torch-optimi"),
    r"adamw_torch_[48]bit": ("torchao", "torchao"),
    r"adamw_torch_xla": ("torch_xla", "torch-xla"),
    r"adamw_torch_npu": ("torch_npu", "torch-npu"),
    r"adamw_anyprecision": ("torchdistx", "git+https://github.com/pytorch/torchdistx"),
    r"paged_|ademamix|lion_|rmsprop_bnb|adamw_(bnb_)?8bit": ("bitsandbytes", "bitsandbytes"),
}
"""How names of optimizers begin, the package they are from, and what pip calls it."""

TRACKERS = {
    "azure_ml": ("azureml", "azureml-mlflow"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
"""What `report_to` may name, the package it is from, and what pip calls it."""

INSTEAD = {"tensorboard": "tensorboardX"}
"""Packages that do as well."""

BASE, LOW_RANK = "adamw_torch", re.compile("galore_|apollo_")


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def package_of(optim: str) -> tuple[str, str] | None:
    """The package an optimizer is from, and what pip calls it; `None` of those that PyTorch and transformers have."""
    return next((package for begin, package in OPTIMIZERS.items() if re.match(begin, optim)), None)


def checks(kind: str) -> tuple[Callable[[Settings], Iterator[str]], ...]:
    """The checks of a kind of training, a key of `schema.CONFIGS`."""
    return (partial(optimizer, kind=kind), optimizer_arguments, liger)


def optimizer(s: Settings, kind: str) -> Iterator[str]:
    name, where = str(s["optim"] or BASE), s.where("optim")
    if kind not in ("sft", "reward") and (why := optimizers.why_refused(where, name)):
        yield why
        return
    if LOW_RANK.match(name) and not s["optim_target_modules"]:
        yield f"{where} is {name}, which needs `optim_target_modules`: add `optim_target_modules: all-linear`."
    needed = package_of(name)
    if needed is not None and not is_installed(needed[0]):
        yield f"{where} is {name}, which needs a package that is not installed: `pip install {needed[1]}`, or choose another."


def optimizer_arguments(s: Settings) -> Iterator[str]:
    """transformers splits them at commas and equals signs, whatever stands in brackets."""
    given = s["optim_args"]
    if isinstance(given, str) and given and any(part.count("=") != 1 for part in given.split(",")):
        betas = " `adam_beta1` and `adam_beta2` are settings of their own." if "betas" in given else ""
        yield (
            f"{s.where('optim_args')} is {given!r}: give name=value, several with commas between them and one number or "
            f"word each, 'rank=64,scale=0.25' for instance.{betas}"
        )


def liger(s: Settings) -> Iterator[str]:
    if s["use_liger_kernel"] and not is_installed("liger_kernel"):
        yield (
            f"{s.where('use_liger_kernel')} is on and needs a package that is not installed: `pip install liger-kernel`, or "
            "remove it."
        )


def trackers(s: Settings) -> Iterator[str]:
    """Notes on trackers that are not there, which need not be where a recipe is only looked at."""
    given = s["report_to"]
    for name in given if isinstance(given, list) else [given]:
        package, pip = TRACKERS.get(str(name), (None, None))
        if package and not is_installed(package) and not (name in INSTEAD and is_installed(INSTEAD[name])):
            yield (
                f"{s.where('report_to')} names {name}, which is not installed here, and `run` needs it: `pip install {pip}`."
            )
