"""Rules about the optimizer: whether a step can use it, the package it needs, and its arguments."""

import re
from collections.abc import Iterator

from trl_ext.checks import packages
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method

BASE = "adamw_torch"
"""The optimizer of a recipe that names none, as far as its arguments matter."""

IN_BACKWARD = re.compile("lomo|layerwise")
LOW_RANK = re.compile("galore_|apollo_")

WITHOUT_ARGUMENTS = re.compile(
    r"adamw_torch(_fused|_xla|_npu_fused)?|adafactor|(paged_)?(adamw|lion)_(8bit|32bit)|adamw_bnb_8bit|(ada)?lomo"
)
"""Optimizers for which transformers does not read `optim_args`."""

PACKAGES = {
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
"""How names of optimizers begin, the package they come from, and its name for pip."""


def takes_several_backward_passes(method: Method) -> bool:
    """Whether an optimizer step has several backward passes whatever the settings."""
    return method.cuts_rows or method.samples_completions


def package_of(optim: str) -> tuple[str, str] | None:
    """The package an optimizer comes from, and its name for pip; `None` for those of PyTorch and transformers."""
    return next((package for begin, package in PACKAGES.items() if re.match(begin, optim)), None)


@problem("optim", applies_to=takes_several_backward_passes)
def steps_in_backward(s: Settings) -> Iterator[str]:
    if IN_BACKWARD.search(_name(s)):
        yield (
            f"{s.where('optim')} is {_name(s)}, which updates weights inside the backward pass. An optimizer step here has several "
            "backward passes. Choose another optimizer, for instance adamw_torch or paged_adamw_8bit."
        )


@problem("optim", "optim_target_modules")
def low_rank(s: Settings) -> Iterator[str]:
    if LOW_RANK.match(_name(s)) and not s["optim_target_modules"] and not _is_refused(s):
        yield (
            f"{s.where('optim')} is {_name(s)}, which needs `optim_target_modules`: add `optim_target_modules: all-linear`."
        )


@problem("optim", recipe_only=True)
def package(s: Settings) -> Iterator[str]:
    needed = package_of(_name(s))
    if needed is not None and not packages.is_installed(needed[0]) and not _is_refused(s):
        yield (
            f"{s.where('optim')} is {_name(s)}, which needs a package that is not installed. Run `pip install {needed[1]}`, "
            "or choose another optimizer."
        )


@problem("optim_args")
def arguments(s: Settings) -> Iterator[str]:
    """transformers splits them at commas and equals signs, even inside brackets."""
    given = s["optim_args"]
    if isinstance(given, str) and given and any(part.count("=") != 1 for part in given.split(",")):
        betas = " `adam_beta1` and `adam_beta2` are separate settings." if "betas" in given else ""
        yield (
            f"{s.where('optim_args')} is {given!r}: give name=value pairs separated by commas, each with one number or word, "
            f"'rank=64,scale=0.25' for instance.{betas}"
        )


@note("optim", "optim_target_modules")
def unread_target_modules(s: Settings) -> Iterator[str]:
    if s["optim_target_modules"] and not LOW_RANK.match(_name(s)):
        yield (
            f"{s.where('optim_target_modules')} has no effect: only GaLore and APOLLO optimizers read it, and `optim` is "
            f"{_name(s)}."
        )


@note("optim", "optim_args")
def unread_arguments(s: Settings) -> Iterator[str]:
    if s["optim_args"] and WITHOUT_ARGUMENTS.fullmatch(_name(s)):
        yield (
            f"{s.where('optim_args')} has no effect: {_name(s)} does not read it. Use settings such as `adam_beta1` instead."
        )


def _name(s: Settings) -> str:
    return str(s["optim"] or BASE)


def _is_refused(s: Settings) -> bool:
    return takes_several_backward_passes(s.method) and bool(IN_BACKWARD.search(_name(s)))
