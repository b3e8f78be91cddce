"""Compute the loss of a row: score it under policy and reference, evaluate the loss, sum its metrics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trl_ext.trainers.common.example_losses import checked
from trl_ext.trainers.common.forward import Completions
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.preference.humanline import Clip
from trl_ext.trainers.preference.loss_state import LossState
from trl_ext.trainers.preference.reference_rows import ReferenceRows
from trl_ext.trainers.preference.references import References

CLIPPED = "clipped_"
"""Begins the names of log-probabilities that the loss reads in place of the policy's own: those of the reference plus the clipped
log-ratios (`trl_ext.trainers.preference.humanline`)."""
CLIPPED_TOKENS = "clipped_tokens"


class Objective:
    """Loss and metrics of rows. `PairedObjective` and `UnpairedObjective` implement it.

    Args:
        loss: One of `trl_ext.losses`.
        references: Scores rows under the reference.
        reference_rows: Scores completions under the reference, before the policy's rows.
        precomputed: Reference log-probabilities are columns of the data.
        router_aux_loss_coef: Weight of the load-balancing loss of a mixture of experts; `None` without one.
        adjust: Changes the losses of a row (`ExampleLosses.example_losses`).
        clip: Bounds of each token's log-ratio in a humanline variant, or `None`.

    Attributes:
        state: Running values of the loss.
    """

    def __init__(
        self,
        loss: Any,
        references: References,
        reference_rows: ReferenceRows,
        *,
        precomputed: bool,
        router_aux_loss_coef: float | None,
        adjust: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor],
        clip: Clip | None = None,
    ) -> None:
        self.loss = loss
        self.state = LossState(loss)
        self.references = references
        self.reference_rows = reference_rows
        self.precomputed = precomputed
        self.router_aux_loss_coef = router_aux_loss_coef
        self.adjust = adjust
        self.clip = clip

    @property
    def scores_reference_apart(self) -> bool:
        """Whether the reference scores completions in other rows than the policy."""
        return False

    # Per kind of examples -------------------------------------------------------------------------------------

    def score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        """Run reference and policy on a collated row. Returns the tensors a loss may read, and the policy's fields."""
        raise NotImplementedError

    def record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        """Add a row's metrics to `sums`."""
        raise NotImplementedError

    def has_reference(self, values: dict[str, Any]) -> bool:
        """Whether an example or a batch holds its reference log-probabilities."""
        raise NotImplementedError

    def step_tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Values of the whole step, over all processes, that the loss of every row reads."""
        return {}

    def share(self, batches: list[dict]) -> None:
        """Add values of the whole step to its collated micro-batches, which are data with images."""

    def weighted(self, losses: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Losses (B,), times weights per example if the trainer has any."""
        return losses

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Metrics computed from the means of other metrics."""
        return {}

    # The reference --------------------------------------------------------------------------------------------

    def score_reference(self, examples: list[dict], rows: list[list[dict]]) -> None:
        """Score the completions of a step under the reference before the policy, if it takes several rows.

        In a single row, policy and reference compute the same row, and the first loss is exact.

        Args:
            examples: The examples of the step on this process.
            rows: The rows of the policy.
        """
        if len(rows) > 1 and self._reads_live_reference(examples) and self.reference_rows.are_used:
            tokens = self.reference_rows.rows.tokens
            self.reference_rows.score(tokens.sequences(examples), examples)

    def _reads_live_reference(self, examples: list[dict]) -> bool:
        # For whole distributions the reference runs on the policy's rows.
        needs_values = self.loss.needs_reference and not self.loss.reads_distributions
        return needs_values and not self.has_reference(examples[0])

    # The loss -------------------------------------------------------------------------------------------------

    def evaluate(self, tensors: dict[str, torch.Tensor]) -> Any:
        """Evaluate the loss. Every field of the output has shape (B,)."""
        read = {name: tensors.get(CLIPPED + name, tensors[name]) for name in self.loss.inputs}
        output = self.loss(state=self.state.read(tensors), **read)
        return output._replace(losses=checked(self.adjust(output.losses, tensors), output.losses))

    def aux_loss(self, fields: Completions, share: float) -> torch.Tensor | float:
        """A row's share of the load-balancing loss, which is computed per row; 0 without one."""
        if self.router_aux_loss_coef is None:
            return 0.0
        return self.router_aux_loss_coef * share * fields.aux_loss
