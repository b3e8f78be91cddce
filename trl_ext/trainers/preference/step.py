"""Run one optimizer step, in this order:

1. `PreferenceTrainer.get_batch_samples` collects all examples of the step in one batch.
2. Before the first step, open the reference cache, test packing and measure memory (`Rows.prepare`).
3. Compute what the loss needs from the whole step: the KTO baseline (`Objective.step_tensors`).
4. Cut the examples into as few rows as fit in memory (`Rows.cut`).
5. If there are several rows, score all completions under the reference, in longer rows (`Objective.score_reference`). The rows
   of the policy read these values. A single row is scored under the reference in 6.
6. Collate each row (`Rows.collate`), score it under reference and policy (`Objective.score`), evaluate its loss
   (`Objective.evaluate`), and run its backward pass. Each example has weight 1/N, with N the examples of all processes.
7. Add the row's metrics to the sums of the step (`Objective.record`).
8. If memory runs out, free cached memory and repeat from 3; if it runs out again, shorten the rows and repeat (`Retry`). Rows of
   the reference are shortened first if it ran out in one of them. Reference values that were computed are kept.
9. Sum the gradients over processes (`Runtime.sum_gradients`), and update the running values of the loss by what it read in the
   step (`LossState.advance`). transformers then clips the gradients and calls the optimizer.

So loss, KTO baseline and metrics have the same meaning for any `row_tokens`.
"""

import torch

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.coupled import CoupledBackward, RowLosses
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.retry import Retry
from trl_ext.trainers.preference.rows import Rows


class OptimizerStep:
    """Accumulate the gradient of a step's mean loss.

    Args:
        runtime, references, rows, memory, objective, retry: The trainer's.

    Attributes:
        losses: Rows of the last step on this process, each with the losses of its examples.
    """

    def __init__(
        self,
        runtime: Runtime,
        references: References,
        rows: Rows,
        memory: RowMemory,
        objective: Objective,
        retry: Retry,
    ) -> None:
        self.runtime = runtime
        self.references = references
        self.rows = rows
        self.memory = memory
        self.objective = objective
        self.retry = retry
        self.coupled = CoupledBackward(runtime, rows, memory, objective)
        self.losses: RowLosses = []

    def run(self, examples: list[dict]) -> MeanMetrics:
        """Accumulate the gradient over all processes. Returns the sums of this process's metrics.

        Args:
            examples: The examples of the step on this process.
        """
        with self.references.kept():
            for attempt in self.retry.attempts(examples):
                with attempt as sums, self.objective.state.observed():
                    self._attempt(examples, sums)
        self.runtime.sum_gradients()  # each example has weight 1/N of the whole step
        self.objective.state.advance(self.runtime.accelerator)
        return sums

    def _attempt(self, examples: list[dict], sums: MeanMetrics) -> None:
        self.references.open()
        self.rows.prepare(examples)
        total = self._count_all(examples)
        shared = self.objective.step_tensors(examples)
        rows = self.rows.cut(examples)
        with self.runtime.locally():
            self.objective.score_reference(examples, rows)
        if self._compares_rows(rows):
            self.losses = self.coupled.run(rows, examples, total, shared, sums)
            return
        self.losses = []
        with self.runtime.locally():
            for row, counts in self.rows.together(rows, examples):
                if counts:
                    self.losses.append((row, self.backward(row, total, shared, sums)))
                else:
                    self.backward(row, total, shared, MeanMetrics(), weight=0.0)

    def backward(
        self,
        row: list[dict],
        total: float,
        shared: dict[str, torch.Tensor],
        sums: MeanMetrics,
        weight: float = 1.0,
    ) -> torch.Tensor:
        """Run the forward and backward pass of one row. Returns the losses of its examples, (B,).

        Args:
            row: The examples of the row.
            total: Examples of the step, over all processes.
            shared: Values of the whole step that the loss reads.
            sums: Metrics are added to it.
            weight: Of the row in the loss; 0 if it only accompanies rows of other processes (`Rows.together`).
        """
        objective = self.objective
        self.memory.checkpoint_for(self.rows.size(row))
        batch = self.rows.collate(row)
        with self.runtime.autocast():
            tensors, fields = objective.score(self.runtime.model, batch)
            tensors |= shared
            output = objective.evaluate(tensors)
            losses = objective.weighted(output.losses, fields)
            loss = losses.sum() / total + objective.aux_loss(fields, len(row) / total)
        self.runtime.backward(weight * loss)
        if weight:
            objective.state.see(tensors)
        sums.add("loss", losses.sum(), len(row))
        objective.record(sums, batch, tensors, fields, output)
        return losses.detach()

    def _count_all(self, examples: list[dict]) -> float:
        """Number of examples of the step, over all processes."""
        accelerator = self.runtime.accelerator
        if accelerator.num_processes == 1:
            return float(len(examples))
        count = torch.tensor(float(len(examples)), device=self.runtime.device)
        return accelerator.reduce(count, reduction="sum").item()

    def _compares_rows(self, rows: list) -> bool:
        """Whether the loss compares examples of different rows."""
        return self.objective.loss.coupled and (len(rows) > 1 or self.runtime.accelerator.num_processes > 1)
