"""Fuse operations of a trainer's model, if the result is the same."""

from typing import Any

from trl_ext.checks import sharding
from trl_ext.fused import lora, proof
from trl_ext.support.counts import count
from trl_ext.trainers.common.console import detail, say


def install(trainer: Any) -> None:
    """Fuse the LoRA layers of a trainer's model, as `fused_kernels` asks.

    Call it when the adapter has its dtype and its device. The result is logged; a model whose fused layers differ keeps PEFT's.
    """
    args, model = trainer.args, trainer.model
    if args.fused_kernels == "none" or sharding.is_on(
        args.fsdp
    ):  # sharded weights cannot be tested before they are gathered
        return
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
