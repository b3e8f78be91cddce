"""Update the reference during training (TR-DPO, arXiv:2404.09656), with TRL's settings.

`sync_ref_model`, `ref_model_sync_steps` (τ) and `ref_model_mixup_alpha` (α) have the same meaning as in TRL, which does
not support them with an adapter: after every τ-th optimizer step the weights of the reference become
α·policy + (1 − α)·reference. With an adapter, the reference is a second adapter on the same base
(`trl_ext.reference.moving`). Without, TRL's own callback updates the second model. The reference changes during the run, so
its log-probabilities are not cached.

A humanline variant (arXiv:2509.24207) updates the reference before the optimizer step instead of after it, with α = 1, as in the authors'
code: the policy is always at least one step ahead of its reference.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from trl.trainer.callbacks import SyncRefModelCallback

from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.moving import add_reference, refresh, unmixable
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.trainers.common.console import say

FILE = "trl_ext_reference.safetensors"  # in a checkpoint: the current weights of the reference


def install(trainer: Any, has_adapter: bool) -> None:
    """Add the reference adapter to a model with an adapter, and the callback that updates the reference, unless TRL added it.

    Args:
        trainer: After the constructor of its TRL parent.
        has_adapter: Whether an adapter is trained.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if has_adapter:
        add_reference(trainer.model, args.ref_model_mixup_alpha)
        callback = ReplaceBeforeStep if args.humanline else RefreshReference
        trainer.add_callback(
            callback(
                lambda: refresh(trainer.model, args.ref_model_mixup_alpha), accelerator, trainer._metrics["train"]
            )
        )
    elif args.humanline:
        trainer.add_callback(ReplaceBeforeStep(lambda: _copy(trainer), accelerator, trainer._metrics["train"]))


def _copy(trainer: Any) -> float:
    """Copy the weights of the policy to the second model. Nothing is lost: 0."""
    policy, second = map(trainer.accelerator.unwrap_model, (trainer.model, trainer.ref_model))
    SyncRefModelCallback.sync_target_model(policy, second, 1.0)
    return 0.0


class RefreshReference(TrainerCallback):
    """Update the reference adapter after every τ-th step, before its checkpoint.

    TRL's `SyncRefModelCallback` does the same with a second model.

    Args:
        update: Updates the reference. Returns the relative norm lost by truncation to the adapter's rank.
        accelerator: The trainer's.
        metrics: Values by name, averaged in the next log. The norm that was lost is added as `reference/dropped`.
    """

    def __init__(self, update: Callable[[], float], accelerator: Accelerator, metrics: dict[str, list[float]]) -> None:
        self.update = update
        self.accelerator = accelerator
        self.metrics = metrics

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.ref_model_sync_steps > state.max_steps:
            say(
                self.accelerator,
                f"reference: never updated, because the run ends after {count(state.max_steps, 'steps')} and "
                f"`ref_model_sync_steps` is {args.ref_model_sync_steps}. Lower `ref_model_sync_steps`",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.ref_model_sync_steps:
            return
        dropped = self.update()
        self.metrics["reference/dropped"].append(dropped)
        say(
            self.accelerator,
            f"step {state.global_step}: reference updated; truncation to its rank dropped {dropped:.1e} of its norm",
        )


class ReplaceBeforeStep(RefreshReference):
    """Replace the reference by the policy before every k-th optimizer step, whose gradient has been computed by then."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (state.global_step + 1) % args.ref_model_sync_steps == 0:
            self.update()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing is updated after a step."""


def refuse(ref_model: Any, adapters: list[PeftConfig]) -> None:
    """ValueError where `sync_ref_model` would have no effect or could not be exact.

    Args:
        ref_model: The reference model that was given, if one was.
        adapters: Configurations of the adapter in training; empty in full fine-tuning.
    """
    if adapters and ref_model is not None:
        raise ValueError(
            "`sync_ref_model` updates a copy of the adapter, and `ref_model` is a separate model that it would not "
            "update. Remove one of them."
        )
    for adapter in adapters:
        if (what := unmixable(adapter)) is not None:
            raise ValueError(
                f"`sync_ref_model` mixes the matrix products of two LoRA adapters and does not support {what}. Train a plain "
                "LoRA, or remove `sync_ref_model`."
            )


def moving_weights(policy: torch.nn.Module, second_model: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    """The weights of the reference: those of the second model, or of the reference adapter.

    Args:
        policy: The model in training.
        second_model: The reference of full fine-tuning, without DDP's wrapper.
    """
    if second_model is not None:
        return dict(second_model.named_parameters())
    return {name: p for name, p in policy.named_parameters() if FROZEN_COPY in name.split(".")}


def save(reference: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Write the weights of the reference into a checkpoint."""
    save_file({name: p.detach().contiguous() for name, p in reference.items()}, checkpoint / FILE)


def load(reference: dict[str, torch.Tensor] | None, checkpoint: Path) -> None:
    """Restore the reference from a checkpoint.

    Args:
        reference: The weights of the reference; `None` if this run does not update its reference.
        checkpoint: The checkpoint's folder.

    Raises:
        UserError: Only one of run and checkpoint updates its reference, or the shapes differ.
    """
    path, refreshes = checkpoint / FILE, reference is not None
    if refreshes != path.exists():
        was, now = ("a fixed", "a moving") if refreshes else ("a moving", "a fixed")
        raise UserError(
            f"{checkpoint} was written with {was} reference, and this run has {now} one. Resume with "
            f"`sync_ref_model: {'false' if refreshes else 'true'}`, or start a new run."
        )
    if not refreshes:
        return
    saved = load_file(path)
    if {name: p.shape for name, p in saved.items()} != {name: p.shape for name, p in reference.items()}:
        raise UserError(
            f"The weights of the reference in {checkpoint} have other shapes than this run's. Resume with the `lora_r`, "
            "`lora_target_modules` and `ref_model_mixup_alpha` of the checkpoint (α = 1 keeps rank r, a smaller α rank 2r)."
        )
    with torch.no_grad():
        for name, parameter in reference.items():
            parameter.copy_(saved[name])
