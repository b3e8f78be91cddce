"""Steps whose loss or gradient is not finite are never taken.

One NaN in a gradient makes every weight it reaches NaN, and Adam's averages with them, for good; transformers goes on and
logs. Here the run stops at such a step with weights and optimizer as they were before it, or leaves up to
`skip_nonfinite_steps` of them out.

Under float16 an infinite gradient of a finite loss is how the gradient scaler finds its scale: it skips that step itself,
and is only judged when it never ends.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from trl_ext.checkpoints import found
from trl_ext.support.errors import UserError
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.processes import on_any_process

OVERFLOWS = 24
"""Steps in a row after which the scaler, which halves its scale at each, has come from 65536 down to 1/256."""

SHOWN, WORDS = 3, 8
"""Examples a sentence quotes, and words of each."""


@dataclass
class FiniteStepOptions:
    """What to do where numbers overflow."""

    skip_nonfinite_steps: int = field(
        default=0,
        metadata={
            "help": "Leave out up to so many steps whose loss or gradient is NaN or infinite, weights and optimizer "
            "untouched. By default the first one stops the run."
        },
    )

    def __post_init__(self) -> None:
        if self.skip_nonfinite_steps < 0:
            raise ValueError(f"`skip_nonfinite_steps` is {self.skip_nonfinite_steps}: give a number of steps, or 0.")
        super().__post_init__()


class FiniteSteps:
    """Mixin before any trainer of TRL's; first, so that a step is judged as all others left it.

    Overrides `train`, `training_step`, `_get_grad_norm`, `log`, `save_model` and `_save_checkpoint` of transformers'
    `Trainer`. Attributes read: `args`, `state`, `accelerator`, `processing_class`, `_metrics`, `_tr_loss`.
    """

    _skipped = 0  # steps left out by this process
    _overflows = 0  # of the gradient scaler, in a row
    _micro_batches: tuple[tuple[Any, Tensor, Tensor], ...] = ()  # of this step: inputs, loss, what was logged of it
    _since_log = (0, 0)  # steps taken and left out
    _losses = ()  # `StepIsBatch`'s, per example; losses of transformers' own loop are means over micro-batches

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._micro_batches = ()
        self._since_log = (0, 0)
        return super().train(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        logged = loss.where(loss.isfinite(), 0.0)  # a NaN would stay in transformers' running sum
        self._micro_batches = (*self._micro_batches, (inputs, loss, logged))
        return logged

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The last thing before the optimizer's step."""
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
                f"Step {self._step_number}: float16 gradients have overflowed {self._overflows} times in a row, down to a "
                f"loss scale of {scaler.get_scale():g}, and no step was taken since. Set `bf16: true` instead of `fp16` "
                "on a card that has bfloat16, or both to false for float32."
            )
        self._since_log = taken + 1, skipped
        return norm

    def _leave_out(self, micro_batches: tuple, what: str, losses: Tensor, norms: list[float]) -> None:
        """Make the optimizer's step one that changes nothing.

        Raises:
            UserError: No further step may be left out.
        """
        value = losses.sum().item() if what == "loss" else sum(norms)
        value = "not finite on another process" if math.isfinite(value) else f"{value:g}"
        examples, is_some = self._blame([pair[0] for pair in micro_batches if not pair[1].isfinite().all()])
        fault = f"Step {self._step_number}: the {what} is {value}{examples}"
        allowed = getattr(self.args, "skip_nonfinite_steps", 0)  # TRL's own configurations do not have it
        if self._skipped >= allowed:
            raise UserError(
                f"{fault}. The step was not taken: the weights are those before it. {self._advice(is_some)}"
            )
        self._skipped += 1
        self._tr_loss = self._tr_loss - torch.stack([logged for *_, logged in micro_batches]).sum()
        # Without gradients an optimizer passes over every parameter, its averages and weight decay included.
        self.model.zero_grad(set_to_none=True)
        say(self.accelerator, f"{fault}; left out, {self._skipped} of {allowed} (`skip_nonfinite_steps`)")

    @property
    def _step_number(self) -> int:
        return self.state.global_step + 1

    def _blame(self, inputs: list[Any]) -> tuple[str, bool]:
        """Which examples it was, in words, and whether it was some of them only.

        Args:
            inputs: Micro-batches of this process whose loss is not finite.
        """
        bad, total = self._not_finite()
        begins = [self._first_words(batch["input_ids"][0]) for batch in inputs if "input_ids" in batch]
        if self.accelerator.num_processes > 1:
            parts = gather_object([(bad, total, begins)])
            bad, begins = ([text for part in parts for text in part[i]] for i in (0, 2))
            total = sum(part[1] for part in parts)
        if bad:
            shown = ", ".join(f"“{text}”" for text in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
            return f", from {len(bad)} of the step's {total} examples ({shown})", len(bad) < total
        return (f", from the micro-batch that begins with “{begins[0]}”" if begins else ""), False

    def _not_finite(self) -> tuple[list[str], int]:
        """This process's examples whose loss is not finite, by their first words, and how many examples it has."""
        judged = [pair for row, losses in self._losses for pair in zip(row, losses.isfinite().tolist(), strict=True)]
        return [self._in_words(example) for example, is_finite in judged if not is_finite], len(judged)

    def _in_words(self, example: dict[str, Any]) -> str:
        completion = example["completion_ids"] if "completion_ids" in example else example["chosen_ids"]
        return f"{self._first_words(example['prompt_ids'])} → {self._first_words(completion)}"

    def _first_words(self, ids: Any) -> str:
        return " ".join(self.processing_class.decode(ids, skip_special_tokens=True).split()[:WORDS])

    def _advice(self, is_some: bool) -> str:
        """What to do, the likeliest first."""
        is_half = self.args.fp16 or self.model.dtype == torch.float16
        half = "set `bf16: true` instead of `fp16`, whose largest number is 65504" if is_half else ""
        lower = f"lower `learning_rate` (it is {self._get_learning_rate():.3g} at this step)"
        if is_some:
            look = "Look for what is special about these examples"
            ways = [look, half, "leave such steps out with `skip_nonfinite_steps`", lower if self._may_be_rate else ""]
            return f"{', or '.join(filter(None, ways))}."
        if not self._may_be_rate:
            way = half or "try `dtype: float32`, or another copy of the weights"
            return f"No weight was changed yet, so it is the model's own numbers: {way}."
        checkpoint = found.latest(Path(self.args.output_dir))
        again = f"go on from {checkpoint} with `resume_changed: true`" if checkpoint else "start again"
        return f"{', or '.join(filter(None, [lower.capitalize(), half]))}, and {again}."

    @property
    def _may_be_rate(self) -> bool:
        """Whether weights were changed since the run began, so that a smaller change may be the cure."""
        return self.state.global_step > 0

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        """Inside, the policy is sampled from. UserError if its probabilities are not finite."""
        try:
            yield
        except RuntimeError as error:
            # `torch.multinomial` on a GPU says no more than that, and leaves the device unusable.
            on_device = "device-side assert" in str(error) and self.state.global_step > 0
            if not on_device and "probability tensor contains" not in str(error):
                raise
            raise UserError(
                f"Step {self._step_number}: the policy cannot be sampled from, since its probabilities are not finite. "
                f"{self._advice(False)}"
            ) from error

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
        if all(parameter.isfinite().all() for parameter in self.model.parameters() if parameter.requires_grad):
            return
        raise UserError(
            f"The weights are no longer finite after step {self.state.global_step} and are not saved. {self._advice(False)}"
        )
