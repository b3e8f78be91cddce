"""Evaluation on whole examples, row by row like training."""

from typing import Any

import torch
from torch import nn

from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.preference.step import StepIsBatch


class Evaluation(StepIsBatch):
    """Mixin before a TRL preference trainer; overrides `evaluation_loop`, `prediction_step` and `log`.

    Metrics are means over the examples of the evaluation set, not over its batches, and the copies with which
    accelerate fills the last batch of several processes do not count. What a loss compares or averages across
    examples (`aot`'s sorting, KTO's baseline) it does within an evaluation batch.
    """

    _eval_sums: MeanMetrics | None = None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._eval_sums = None
        output = super().evaluation_loop(*args, **kwargs)
        if self.reference_cache is not None:
            self.reference_cache.flush()
        return output

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple:
        if self._is_vision_dataset:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        examples = list(inputs)
        own = self._without_copies(examples)
        with no_grad_eval(self.model):
            # A process that holds nothing but copies still takes part, with weight zero.
            sums = self._until_it_fits(self._run_examples, own or examples[:1])
        if not own:
            sums.clear()
        sums.reduce(self.accelerator)
        self._eval_sums = self._eval_sums or MeanMetrics()
        self._eval_sums.add_all(sums)
        return torch.tensor(sums.means()["loss"], device=self.args.device), None, None

    def _without_copies(self, examples: list[dict]) -> list[dict]:
        """This process's examples of a batch, less those repeated to give every process equally many."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return examples
        return examples[: max(state.remainder - self.accelerator.process_index * len(examples), 0)]

    def _run_examples(self, examples: list[dict], sums: MeanMetrics) -> None:
        self._prepare_rows(examples)
        shared = self._step_tensors(examples)
        rows = self._rows(examples)

        def score_all() -> list[tuple]:
            scored = []
            with self.compute_loss_context_manager():
                for row in rows:
                    batch = self._collate(row)
                    scored.append((batch, *self._score(self.model, batch)))
            return scored

        scored = self._locally(score_all)
        # Over the whole batch at once: some losses compare its examples with each other.
        whole = {name: torch.cat([tensors[name] for _, tensors, _ in scored]) for name in scored[0][1]}
        output = self._evaluate_loss(whole | shared)
        start = 0
        for row, (batch, tensors, fields) in zip(rows, scored, strict=True):
            stop = start + len(row)
            part = type(output)(*(field[start:stop] for field in output))
            losses = self._weighted(part.losses, fields)
            sums.add("loss", losses.sum(), len(row))
            self._record(sums, batch, tensors | shared, fields, part)
            start = stop

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training and self._eval_sums is not None:
            sums, self._eval_sums = self._eval_sums, None
            means = sums.means()
            means.pop("loss")
            self._keep(sums, means, "eval")
        super().log(logs, start_time)
