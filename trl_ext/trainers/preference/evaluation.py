"""Evaluate on whole examples, row by row like training."""

from collections.abc import Mapping
from typing import Any

import torch

from trl_ext.batching import images
from trl_ext.batching.padded import Examples
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.processes import without_copies
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.retry import Retry
from trl_ext.trainers.preference.rows import Rows


class Evaluation:
    """Compute the metrics of an evaluation set.

    Metrics are means over the examples of the evaluation set, not over its batches. Copies with which accelerate fills
    the last batch of several processes do not count. A loss that compares or averages over examples (`aot`'s sorting,
    KTO's baseline) does so within an evaluation batch.

    Args:
        runtime, references, rows, objective, retry: The trainer's.
    """

    def __init__(
        self, runtime: Runtime, references: References, rows: Rows, objective: Objective, retry: Retry
    ) -> None:
        self.runtime = runtime
        self.references = references
        self.rows = rows
        self.objective = objective
        self.retry = retry
        self._sums: MeanMetrics | None = None

    def begin(self) -> None:
        """Discard the sums of an earlier evaluation."""
        self._sums = None

    def add(self, examples: list[dict]) -> float:
        """Evaluate a batch. Returns its mean loss over all processes.

        Args:
            examples: The examples of this process, copies included.
        """
        own = examples[: without_copies(self.runtime.accelerator, len(examples))]
        shown = own or examples[:1]  # a process with nothing but copies takes part with weight zero
        with no_grad_eval(self.runtime.model), self.references.kept():
            for attempt in self.retry.attempts(shown):
                with attempt as sums:
                    self._run(shown, sums)
        if not own:
            sums.clear()
        sums.reduce(self.runtime.accelerator)
        self._sums = self._sums or MeanMetrics()
        self._sums.add_all(sums)
        return sums.means()["loss"]

    def loss(self) -> tuple[float | None, int]:
        """Mean loss over the examples since `begin`, and their number."""
        sums = self._sums or MeanMetrics()
        return sums.means().get("loss"), sums.count("loss")

    def take(self) -> MeanMetrics | None:
        """Return the sums over all batches since `begin` and clear them; `None` if there are none."""
        sums, self._sums = self._sums, None
        return sums

    def predict(self, examples: Examples, *, with_logits: bool) -> tuple[torch.Tensor, Any, Any]:
        """Evaluate a batch as transformers' loop expects it: its loss, logits (S, T, V) and token ids (S, T), or `None`."""
        loss = torch.tensor(self.add(list(examples)), device=self.runtime.device)
        if with_logits or "inputs" in self.runtime.args.include_for_metrics:
            examples.collated = self.rows.padded(list(examples))
        if not with_logits:
            return loss, None, None
        return loss, self.output(examples.collated).logits, examples.collated["input_ids"]

    def output(self, batch: Any) -> Any:
        """Output of the policy with the logits of a batch, (S, T, V), for `compute_metrics` and `predict`.

        Losses and metrics never need them, so that it takes a forward pass of its own, as in TRL.
        """
        batch = images.unpacked(batch) if isinstance(batch, Mapping) else self.rows.padded(list(batch))
        with no_grad_eval(self.runtime.model), self.runtime.autocast():
            return self.runtime.model(**forward.for_the_model(batch), use_cache=False)

    def _run(self, examples: list[dict], sums: MeanMetrics) -> None:
        objective = self.objective
        rows, shared = self._cut(examples)
        with self.runtime.locally():
            objective.score_reference(examples, rows)
            scored = self._score(rows, examples)
        # For the whole batch at once: some losses compare its examples with each other.
        output = objective.evaluate(_whole(scored) | shared)
        start = 0
        for row, (batch, tensors, fields) in zip(rows, scored, strict=True):
            stop = start + len(row)
            part = type(output)(*(field[start:stop] for field in output))
            losses = objective.weighted(part.losses, fields)
            sums.add("loss", losses.sum(), len(row))
            objective.record(sums, batch, tensors | shared, fields, part)
            start = stop

    def tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """The tensors that a loss may read, of all these examples, without gradient."""
        with no_grad_eval(self.runtime.model), self.references.kept():
            for attempt in self.retry.attempts(examples):
                with attempt:
                    rows, shared = self._cut(examples)
                    with self.runtime.locally():
                        self.objective.score_reference(examples, rows)
                        scored = self._score(rows, examples)
        return _whole(scored) | shared

    def _cut(self, examples: list[dict]) -> tuple[list, dict[str, torch.Tensor]]:
        """The rows of examples, and the values that the loss of every row reads."""
        self.references.open()
        self.rows.prepare(examples)
        shared = self.objective.step_tensors(examples)
        return self.rows.cut(examples), shared

    def _score(self, rows: list, examples: list[dict]) -> list[tuple]:
        scored = []
        with self.runtime.autocast():
            for row, counts in self.rows.together(rows, examples):
                batch = self.rows.collate(row)
                tensors, fields = self.objective.score(self.runtime.model, batch)
                if counts:
                    scored.append((batch, tensors, fields))
        return scored


def _whole(scored: list[tuple]) -> dict[str, torch.Tensor]:
    """The tensors of scored rows as those of one."""
    return {name: torch.cat([tensors[name] for _, tensors, _ in scored]) for name in scored[0][1]}
