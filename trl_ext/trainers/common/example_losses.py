"""Let a subclass of a trainer change the loss of each example, in place of TRL's `compute_loss`."""

from typing import Any

from torch import Tensor

from trl_ext.support.counts import count

HOOK = "example_losses"


class ExampleLosses:
    """Mixin for trainers with a loss of `trl_ext.losses`."""

    def example_losses(self, losses: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Override this to change the loss, in training and in evaluation.

        A step is cut into rows that fit in memory, so it is called once per row with the examples of that row. The loss
        of an example must not depend on the other examples. The trainer averages the returned losses over the step.

        Args:
            losses: Losses of the configured loss, (B,), with gradient.
            tensors: For pairs: `chosen_logps` and `rejected_logps`, log-probabilities of the policy summed over each
                completion, with gradient; `chosen_lens` and `rejected_lens`, tokens of the completions; with a loss that
                reads a reference also `ref_chosen_logps` and `ref_rejected_logps`. For labelled completions: `logps`,
                `desirable` (boolean), `ref_logps`, and with a KTO baseline `z_ref`, a scalar. All others have shape (B,).

        Returns:
            Losses of the examples, (B,), with gradient.
        """
        return losses


def changed_by(trainer: Any) -> str | None:
    """The name of the method that changes the loss of a trainer, such as `MyTrainer.example_losses`; `None` without one."""
    owner = next((cls for cls in type(trainer).__mro__ if HOOK in vars(cls)), ExampleLosses)
    return None if owner is ExampleLosses else f"{owner.__name__}.{HOOK}"


def checked(losses: Any, configured: Tensor) -> Tensor:
    """The losses that a subclass returned.

    Raises:
        ValueError: They are not one number per example.
    """
    if isinstance(losses, Tensor) and losses.shape == configured.shape:
        return losses
    given = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
    raise ValueError(
        f"`{HOOK}` returned {given}, and this row has {count(len(configured), 'examples')}. Return their losses without averaging "
        f"them: a tensor of shape ({len(configured)},)."
    )
