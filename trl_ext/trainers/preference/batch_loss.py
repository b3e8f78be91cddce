"""Compute the loss of a batch as TRL's `compute_loss` does, outside of a step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.image_rows import ImageRows
from trl_ext.trainers.preference.metrics import StepMetrics
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.rows import Rows


class BatchLoss:
    """Mean loss of a batch, with gradient.

    Args:
        runtime, references, rows, image_rows, objective: The trainer's.
    """

    def __init__(
        self, runtime: Runtime, references: References, rows: Rows, image_rows: ImageRows, objective: Objective
    ) -> None:
        self.runtime = runtime
        self.references = references
        self.rows = rows
        self.image_rows = image_rows
        self.objective = objective

    def of(self, model: nn.Module, batch: Any, metrics: StepMetrics | None) -> torch.Tensor:
        """Of a batch of the dataloaders.

        Args:
            model: The policy, in DDP's wrapper or without it.
            batch: Examples, or one collated micro-batch.
            metrics: Those of a collated micro-batch are added to these.
        """
        if isinstance(batch, Mapping):
            return self.of_collated(model, batch, metrics)
        return self.of_examples(self.runtime.accelerator.unwrap_model(model), list(batch))

    def of_examples(self, model: nn.Module, examples: list[dict]) -> torch.Tensor:
        """Of examples as the dataloaders give them. All their activations are kept for one backward pass.

        Args:
            model: The policy.
            examples: Tokenised examples.
        """
        objective, examples = self.objective, [dict(example) for example in examples]
        self.references.open()
        self.rows.prepare(examples)
        shared = objective.step_tensors(examples)
        rows, losses, aux_loss = self.rows.cut(examples), [], 0.0
        with self.runtime.autocast(), self.references.kept():
            objective.score_reference(examples, rows)
            scored = [objective.score(model, self.rows.collate(row)) for row in rows]
            whole = {name: torch.cat([tensors[name] for tensors, _ in scored]) for name in scored[0][0]}
            per_row = objective.evaluate(whole | shared).losses.split([len(row) for row in rows])
            for row, (_, fields), of_row in zip(rows, scored, per_row, strict=True):
                losses.append(objective.weighted(of_row, fields))
                aux_loss = aux_loss + objective.aux_loss(fields, len(row) / len(examples))
        return torch.cat(losses).mean() + aux_loss

    def of_collated(self, model: nn.Module, batch: dict[str, Any], metrics: StepMetrics | None) -> torch.Tensor:
        """Of one output of TRL's collator."""
        objective, sums, batch = self.objective, MeanMetrics(), self.image_rows.completed(batch)
        if "z_ref" not in batch:  # outside of a step
            objective.share([batch])
        tensors, fields = objective.score(model, batch)
        output = objective.evaluate(tensors)
        losses = objective.weighted(output.losses, fields)
        if metrics is not None:
            sums.add("loss", losses.sum(), len(losses))
            objective.record(sums, batch, tensors, fields, output)
            metrics.finish(sums, "train" if self.runtime.model.training else "eval")
        return losses.mean() + objective.aux_loss(fields, 1.0)
