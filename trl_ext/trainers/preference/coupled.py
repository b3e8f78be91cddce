"""The gradient of a loss that compares the examples of a step with each other, when they take more than one row."""

import torch
from accelerate.utils import gather_object

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.preference import random_state
from trl_ext.trainers.preference.rows import Rows


class CoupledBackward(Rows):
    """Mixin: differentiates such a loss with respect to the log-probabilities of the whole step.

    Attributes and methods read, besides those of `Rows`: `accelerator`, `_score`, `_evaluate_loss`, `_aux_loss`,
    `_record`, `_losses`.
    """

    def _backward_coupled(self, rows: list, total: float, shared: dict, sums: MeanMetrics) -> None:
        """Accumulate the gradient of the step's mean loss.

        The rows run once without gradient to gather the loss's inputs over the whole step, the loss is
        differentiated with respect to them, and the rows run again with that gradient: the one case in which
        tokens are computed twice.

        Args:
            rows: Those of this process.
            total: Examples of the step, over all processes.
            shared: Values of the whole step that the loss reads as they are.
            sums: Metrics are added to it.
        """
        states = []

        def score_all() -> list[dict[str, torch.Tensor]]:
            scored = []
            with torch.no_grad(), self.compute_loss_context_manager():
                for row in rows:
                    states.append(random_state.capture())
                    scored.append(self._score(self.model, self._collate(row))[0])
            return scored

        scored = self._locally(score_all)
        local = {name: torch.cat([tensors[name] for tensors in scored]) for name in scored[0]}
        leaves, mine = self._gather_leaves(local)
        output = self._evaluate_loss({**leaves, **shared})
        policy = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(output.losses.sum() / total, list(policy.values()), allow_unused=True)

        def backward_all() -> None:
            start = 0
            for row, state in zip(rows, states, strict=True):
                stop = start + len(row)
                self._checkpoint_for(row)
                batch = self._collate(row)
                random_state.restore(state)  # the same dropout masks again
                with self.compute_loss_context_manager():
                    tensors, fields = self._score(self.model, batch)
                    surrogate = self._aux_loss(fields, len(row) / total)
                    for name, gradient in zip(policy, gradients, strict=True):
                        if gradient is not None:
                            surrogate = surrogate + (tensors[name] * gradient[mine][start:stop]).sum()
                self.accelerator.backward(surrogate)
                part = type(output)(*(field[mine][start:stop].detach() for field in output))
                self._losses.append((row, part.losses))
                sums.add("loss", part.losses.sum(), len(row))
                self._record(sums, batch, tensors, fields, part)
                start = stop

        self._locally(backward_all)

    def _gather_leaves(self, local: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], slice]:
        """This process's tensors joined with all others', and where its own lie.

        Tensors that came from the policy get gradients; reference values and lengths do not.
        """
        count = len(next(iter(local.values())))
        mine = slice(0, count)
        if self.accelerator.num_processes > 1:
            parts = gather_object([{name: tensor.cpu() for name, tensor in local.items()}])
            start = sum(len(next(iter(part.values()))) for part in parts[: self.accelerator.process_index])
            mine = slice(start, start + count)
            local = {name: torch.cat([part[name] for part in parts]).to(self.args.device) for name in local}
        leaves = {
            name: tensor.clone().requires_grad_(not name.startswith("ref_") and tensor.is_floating_point())
            for name, tensor in local.items()
        }
        return leaves, mine
