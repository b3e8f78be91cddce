"""Differentiate a loss that compares the examples of a step with each other, when they take more than one row."""

import torch
from accelerate.utils import gather_object

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference import random_state
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.rows import Rows

RowLosses = list[tuple[list[dict], torch.Tensor]]
"""Rows of a step, each with the losses of its examples, (B,)."""


class CoupledBackward:
    """Run the backward passes of a step with such a loss.

    Args:
        runtime, rows, memory, objective: The trainer's.
    """

    def __init__(self, runtime: Runtime, rows: Rows, memory: RowMemory, objective: Objective) -> None:
        self.runtime = runtime
        self.rows = rows
        self.memory = memory
        self.objective = objective

    def run(self, rows: list, examples: list[dict], total: float, shared: dict, sums: MeanMetrics) -> RowLosses:
        """Accumulate the gradient of the step's mean loss.

        The rows run once without gradient, which gives the inputs of the loss for the whole step. The loss is
        differentiated with respect to them, and the rows run again with these derivatives. This is the only case in which
        tokens are computed twice.

        Args:
            rows: The rows of this process.
            examples: Their examples.
            total: Number of examples of the step, over all processes.
            shared: Values of the whole step that the loss reads.
            sums: Metrics are added to it.
        """
        with self.runtime.locally():
            scored, states = self._score(rows, examples)
        local = {name: torch.cat([tensors[name] for tensors in scored]) for name in scored[0]}
        leaves, mine = self._gather_leaves(local)
        output = self.objective.evaluate({**leaves, **shared})
        self.objective.state.see({**leaves, **shared}, is_whole=True)
        policy = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        found = torch.autograd.grad(output.losses.sum() / total, list(policy.values()), allow_unused=True)
        gradients = {name: g[mine] for name, g in zip(policy, found, strict=True) if g is not None}
        own = type(output)(*(field[mine].detach() for field in output))
        with self.runtime.locally():
            return self._backward(rows, examples, states, total, gradients, own, sums)

    def _score(
        self, rows: list, examples: list[dict]
    ) -> tuple[list[dict[str, torch.Tensor]], list[random_state.RandomState]]:
        """Score every row without gradient. Returns its tensors, and the random state before each row."""
        scored, states = [], []
        with torch.no_grad(), self.runtime.autocast():
            for row, counts in self.rows.together(rows, examples):
                states.append(random_state.capture())
                tensors, _ = self.objective.score(self.runtime.model, self.rows.collate(row))
                if counts:
                    scored.append(tensors)
        return scored, states

    def _backward(
        self,
        rows: list,
        examples: list[dict],
        states: list,
        total: float,
        gradients: dict,
        output: tuple,
        sums: MeanMetrics,
    ) -> RowLosses:
        """Run the rows again, each with its part of the derivatives."""
        objective, losses, start = self.objective, [], 0
        for (row, counts), state in zip(self.rows.together(rows, examples), states, strict=True):
            part = slice(start, start + len(row)) if counts else slice(0, 1)
            self.memory.checkpoint_for(self.rows.size(row))
            batch = self.rows.collate(row)
            random_state.restore(state)  # the same dropout masks again
            with self.runtime.autocast():
                tensors, fields = objective.score(self.runtime.model, batch)
                surrogate = objective.aux_loss(fields, len(row) / total)
                for name, gradient in gradients.items():
                    surrogate = surrogate + (tensors[name] * gradient[part]).sum()
            self.runtime.backward(surrogate if counts else 0.0 * surrogate)
            if not counts:
                continue
            start = part.stop
            of_row = type(output)(*(field[part] for field in output))
            losses.append((row, of_row.losses))
            sums.add("loss", of_row.losses.sum(), len(row))
            objective.record(sums, batch, tensors, fields, of_row)
        return losses

    def _gather_leaves(self, local: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], slice]:
        """Gather the tensors of all processes. Returns them, and the slice that belongs to this process.

        The policy's log-probabilities require gradients; reference values and lengths do not.
        """
        accelerator = self.runtime.accelerator
        count = len(next(iter(local.values())))
        mine = slice(0, count)
        if accelerator.num_processes > 1:
            parts = gather_object([{name: tensor.cpu() for name, tensor in local.items()}])
            start = sum(len(next(iter(part.values()))) for part in parts[: accelerator.process_index])
            mine = slice(start, start + count)
            local = {name: torch.cat([part[name] for part in parts]).to(self.runtime.device) for name in local}
        leaves = {
            name: tensor.clone().requires_grad_(not name.startswith("ref_") and tensor.is_floating_point())
            for name, tensor in local.items()
        }
        return leaves, mine
