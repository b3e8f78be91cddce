"""Fuse operations of a trainer's model, if the results are the same."""

from collections.abc import Callable
from typing import Any

from torch import nn

from trl_ext.checks import sharding
from trl_ext.fused import classes, lora, module_proof, norm, proof, swiglu
from trl_ext.support.counts import count
from trl_ext.trainers.common.console import detail, say


def install(trainer: Any) -> None:
    """Fuse LoRA layers, norms and MLPs of a trainer's model, as `fused_kernels` asks.

    Call it when the adapter has its dtype and its device. The result is logged; modules that give another result keep their
    class. A separate reference model computes like the policy.
    """
    args, model = trainer.args, trainer.model
    classes.restore(model.modules())  # of a base on which another run was trained
    if args.fused_kernels == "none" or sharding.is_on(
        args.fsdp
    ):  # sharded weights cannot be tested before they are gathered
        return
    if _install(trainer, norm.fuse, "RMSNorm"):
        _like_policy(trainer, norm.fuse)
    has_liger = _is_on_cuda(model) and swiglu.liger() is not None
    if has_liger and _install(trainer, swiglu.fuse_with_liger, "SwiGLU", by=" with Liger"):
        _like_policy(trainer, swiglu.fuse_with_liger)
    elif _install(trainer, swiglu.fuse, "SwiGLU"):
        _like_policy(trainer, swiglu.fuse)
    _install_lora(trainer)


def _install(trainer: Any, fuse: Callable[[nn.Module], list[nn.Module]], name: str, by: str = "") -> bool:
    """Whether modules were fused; logs it, or why not."""
    modules = fuse(trainer.model)
    if not modules:
        return False
    try:
        difference = module_proof.prove(modules, trainer.compute_loss_context_manager)
    except proof.DifferentError as error:
        classes.restore(modules)
        say(trainer.accelerator, f"kernels: {name} is not fused{by}, because {error}")
        return False
    detail(
        trainer.accelerator,
        f"kernels: {name} fused{by} in {count(len(modules), 'modules')}; outputs and gradients differ by a relative "
        f"{difference:.1e} from transformers'",
    )
    return True


def _is_on_cuda(model: nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def _like_policy(trainer: Any, fuse: Callable[[nn.Module], list[nn.Module]]) -> None:
    reference = getattr(trainer, "ref_model", None)
    if reference is not None:
        fuse(reference)


def _install_lora(trainer: Any) -> None:
    model = trainer.model
    layers = lora.fuse(model)
    if not layers:
        return
    try:
        difference = proof.prove_lora(layers, trainer.compute_loss_context_manager)
    except proof.DifferentError as error:
        lora.restore(model)
        say(trainer.accelerator, f"kernels: LoRA is computed by PEFT, because {error}")
        return
    detail(
        trainer.accelerator,
        f"kernels: LoRA fused in {count(len(layers), 'layers')}; outputs and gradients differ by a relative "
        f"{difference:.1e} from PEFT's",
    )
