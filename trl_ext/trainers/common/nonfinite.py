"""Never take an optimizer step whose loss or gradient is not finite.

One NaN in a gradient turns every weight that it reaches into NaN, and Adam's averages with them, permanently; transformers
continues. Here the run stops at such a step, with weights and optimizer as they were before it, or skips up to
`skip_nonfinite_steps` of them.

Under float16, infinite gradients of a finite loss are how the gradient scaler finds its scale. It skips these steps itself;
they are an error only if they never end.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.support.errors import UserError
from trl_ext.support.sharded import is_sharded, own_part
from trl_ext.trainers.common import nonfinite_report as report
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.processes import on_any_process

OVERFLOWS = 24
"""Steps in a row after which the scaler, which halves its scale at each, has come from 65536 down to 1/256."""


@dataclass
class FiniteStepOptions:
    """Settings about steps that are not finite."""

    skip_nonfinite_steps: int = field(
        default=0,
        metadata={
            "help": "Number of steps with a NaN or infinite loss or gradient that may be skipped, leaving weights and "
            "optimizer unchanged. One more such step stops the run."
        },
    )


class FiniteSteps:
    """Mixin before any trainer of TRL's; first in order, so that it checks a step after all other classes.

    Overrides `train`, `training_step`, `_get_grad_norm`, `log`, `save_model` and `_save_checkpoint` of transformers'
    `Trainer`. Attributes read: `args`, `state`, `accelerator`, `processing_class`, `_metrics`, `_tr_loss`.
    """

    _skipped = 0  # steps left out by this process
    _overflows = 0  # of the gradient scaler, in a row
    _micro_batches: tuple[tuple[Any, Tensor, Tensor], ...] = ()  # of this step: inputs, loss, what was logged of it
    _since_log = (0, 0)  # steps taken and left out
    _losses = ()  # rows of the last step with their losses per example; unknown in transformers' own loop

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._micro_batches = ()
        self._since_log = (0, 0)
        return super().train(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        logged = loss.where(loss.isfinite(), 0.0)  # a NaN would stay in transformers' running sum
        self._micro_batches = (*self._micro_batches, (inputs, loss, logged))
        return logged

    def note_losses(self, losses: Iterable[tuple[list[dict], Tensor]]) -> None:
        """Remember the losses of single examples, by which a lost step names them.

        Args:
            losses: Rows of the step in hand, each with the losses of its examples, (B,).
        """
        self._losses = losses

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called last before the optimizer's step."""
        norm = super()._get_grad_norm(model, grad_norm)
        taken, skipped = self._since_log
        micro_batches, self._micro_batches = self._micro_batches, ()
        losses = torch.stack([loss for _, loss, _ in micro_batches])
        # Roles that are clipped apart, PPO's critic, log their norm.
        roles = [values[-1] for name, values in self._metrics["train"].items() if name.startswith("grad_norm/")]
        norms = [float(value) for value in (norm, *roles) if value is not None]  # DeepSpeed may not know its norm
        is_lost = not losses.isfinite().all().item()
        overflows = not all(map(math.isfinite, norms))
        scaler = self.accelerator.scaler
        if on_any_process(self.accelerator, is_lost or (overflows and scaler is None)):
            what = "loss" if on_any_process(self.accelerator, is_lost) else "gradient"
            self._leave_out(micro_batches, what, losses, norms)
            self._since_log = taken, skipped + 1
            return norm
        self._overflows = self._overflows + 1 if overflows else 0
        if self._overflows > OVERFLOWS:
            raise UserError(
                f"Step {report.step_number(self)}: float16 gradients have overflowed {self._overflows} times in a row, down to a "
                f"loss scale of {scaler.get_scale():g}. No step was taken in that time. Set `bf16: true` instead of `fp16` "
                "if the GPU supports bfloat16, or set both to false for float32."
            )
        self._since_log = taken + 1, skipped
        return norm

    def _leave_out(self, micro_batches: tuple, what: str, losses: Tensor, norms: list[float]) -> None:
        """Make the optimizer's step change nothing.

        Raises:
            UserError: No further step may be skipped.
        """
        value = losses.sum().item() if what == "loss" else sum(norms)
        value = "not finite on another process" if math.isfinite(value) else f"{value:g}"
        bad = [inputs for inputs, loss, _ in micro_batches if not loss.isfinite().all()]
        examples, is_some = report.examples(self, bad, self._losses)
        fault = f"Step {report.step_number(self)}: the {what} is {value}{examples}"
        allowed = getattr(self.args, "skip_nonfinite_steps", 0)  # TRL's own configurations do not have it
        if self._skipped >= allowed:
            raise UserError(
                f"{fault}. The step was not taken, and the weights are unchanged. {report.advice(self, is_some)}"
            )
        self._skipped += 1
        self._tr_loss = self._tr_loss - torch.stack([logged for *_, logged in micro_batches]).sum()
        # Without gradients an optimizer passes over every parameter, its averages and weight decay included.
        self.model.zero_grad(set_to_none=True)
        skipped = f"{fault}. The step is skipped: {self._skipped} of {allowed} (`skip_nonfinite_steps`)"
        say(self.accelerator, skipped, is_warning=True)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._skipped:
            taken, skipped = self._since_log
            # transformers divides by all steps; those left out had no loss.
            logs["loss"] = logs["loss"] * (taken + skipped) / taken if taken else math.nan
            logs["skipped_steps"] = self._skipped
        if "loss" in logs:
            self._since_log = (0, 0)
        super().log(logs, *args, **kwargs)

    # Weights that a finite step made infinite -------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._refuse_to_save()
        super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not _internal_call:
            self._refuse_to_save()
        super().save_model(output_dir, _internal_call)

    def _refuse_to_save(self) -> None:
        """UserError if the trained weights are not finite."""
        trained = (own_part(parameter) for parameter in self.model.parameters() if parameter.requires_grad)
        is_lost = not all(part.isfinite().all() for part in trained)
        # Whole weights are equal on all processes, and a script may save in the first process alone.
        if not (on_any_process(self.accelerator, is_lost) if is_sharded(self.accelerator) else is_lost):
            return
        raise UserError(
            f"The weights are no longer finite after step {self.state.global_step} and were not saved. {report.advice(self)}"
        )
