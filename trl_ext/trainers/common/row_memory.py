"""Choose the length of rows and the checkpointed layers from memory measured on the model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from trl_ext.batching import budget
from trl_ext.support.free_memory import release
from trl_ext.trainers.common import activation_memory, forward
from trl_ext.trainers.common.checkpointed_layers import CheckpointedLayers
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError
from trl_ext.trainers.common.runtime import Runtime

Sample = Callable[[int], tuple[dict[str, Any], int]]
"""Make a row 1 or 2 times as long as the shortest sample, and count its tokens."""


class RowMemory:
    """Resolve `row_tokens: auto` and `gradient_checkpointing: auto`.

    Checkpointed layers are chosen for each row: as few as it needs to fit, none if it fits without. The choice does not
    change results, so it may differ between processes and in resumed runs.

    Args:
        runtime: The policy and its settings.
        optimizer: Returns the optimizer, which does not exist before training.
        trained: Returns the trained parameters (default: those that require gradients when memory is measured).

    Attributes:
        row_budget: Tokens of a row, set before the first row and lowered when memory runs out; `None` until then.
        reference_budget: Tokens of a row without gradient, likewise; `None` if memory was not measured.
        activations: Measured memory; `None` if the user chose the checkpointed layers.
    """

    def __init__(
        self,
        runtime: Runtime,
        optimizer: Callable[[], Any],
        trained: Callable[[], list[nn.Parameter] | None] = lambda: None,
    ) -> None:
        self.runtime = runtime
        self.optimizer = optimizer
        self.trained = trained
        self.row_budget: int | None = None
        self.reference_budget: int | None = None
        self.activations: budget.Memory | None = None
        self._layers: CheckpointedLayers | None = None  # `None` if the user chose
        self._longest = 0  # tokens of the longest row trained on so far
        self._reference_row = 0  # tokens of the row without gradient that is running or ran out of memory

    @property
    def row_tokens(self) -> int:
        """Tokens a row may hold."""
        return self.row_budget if self.row_budget is not None else self._given or budget.LARGEST_ROW

    @property
    def checkpointed_layers(self) -> int | None:
        """Layers checkpointed in the current row; `None` before the first choice, or if the user chose."""
        return self._layers.count if self._layers is not None else None

    @property
    def longest_row(self) -> tuple[int, int]:
        """Tokens of the longest row trained on so far, and the number of layers checkpointed in it."""
        if self.activations is not None:
            return self._longest, self.activations.layers_to_checkpoint(self._longest)
        if self.checkpointed_layers is not None:
            return self._longest, self.checkpointed_layers
        return self._longest, self._layers_always_recomputed(activation_memory.layers_of(self.runtime.base))

    def settle(self, sample: Sample, longest_example: int) -> None:
        """Measure the model and choose the length of rows, if either setting is `auto`.

        A resumed run keeps the row length of its checkpoint, so that sums are formed in the same order.

        Args:
            sample: Makes the rows that are measured.
            longest_example: Tokens of the longest example in a row of its own: the row length if no sample fits.
        """
        runtime, base = self.runtime, self.runtime.base
        is_auto = runtime.args.gradient_checkpointing == "auto"
        given = self.row_budget or self._given
        if given is not None and not is_auto:
            return
        fits = True
        try:
            with activation_memory.nothing_checkpointed(base), runtime.locally():
                measured, layers = activation_memory.footprint(base, self._trial(sample))
        except RowsDoNotFitError:
            fits = False
        if not fits:
            release()  # outside the handler: its traceback keeps the sample's activations alive
            self.row_budget = given or longest_example
            if is_auto:
                self._layers = self._choosable(activation_memory.layers_of(base))
            self.recompute_everything()
            runtime.say("memory: even a short row does not fit without gradient checkpointing")
            return
        free = activation_memory.free_for_activations(
            base, self.optimizer(), runtime.args.optim, runtime.device, self.trained()
        )
        memory = budget.Memory(measured, free)
        count = None if is_auto else self._layers_always_recomputed(layers)
        self.row_budget = given or budget.row_length(memory, count)
        if is_auto:
            self.activations, self._layers = memory, self._choosable(layers)
        needed = memory.layers_to_checkpoint(self.row_budget) if count is None else count
        if self.reference_budget is None:
            self.reference_budget = budget.row_without_gradient(measured, self.row_budget, needed)
        tell = runtime.detail if memory.fits(self.row_budget, needed) else runtime.say
        tell(f"memory: {budget.in_words(memory, self.row_budget, count)}")

    def checkpoint_for(self, tokens: int) -> None:
        """Checkpoint as many layers as a row of `tokens` tokens needs."""
        self._longest = max(self._longest, tokens)
        if self._layers is not None:
            memory, all_layers = self.activations, len(self._layers.layers)
            self._layers.first(all_layers if memory is None else memory.layers_to_checkpoint(tokens))

    def checkpoint_nothing(self) -> None:
        """Checkpoint no layer, as long as no backward pass follows, unless the user chose the layers."""
        if self._layers is not None:
            self._layers.first(0)

    def recompute_everything(self) -> bool:
        """Checkpoint all layers from now on, unless the user chose them. Returns whether anything changed."""
        if self._layers is None or (self.activations is None and self.checkpointed_layers is not None):
            return False
        self.activations = None
        self._layers.first(len(self._layers.layers))
        return True

    def shorten_rows(self, tokens: int) -> None:
        """Limit rows to `tokens` tokens from now on."""
        self.row_budget = tokens

    # Rows of the reference -------------------------------------------------------------------------------------

    def reference_tokens(self, longest_example: int) -> int:
        """Tokens that a row without gradient may hold.

        Args:
            longest_example: Tokens of the step's longest example, which fits with gradient.
        """
        is_measured = self.reference_budget is not None
        recomputes = self.runtime.args.gradient_checkpointing and not is_measured
        tokens = max(self.row_tokens, longest_example) * (budget.LONGER_IF_RECOMPUTED if recomputes else budget.LONGER)
        return min(tokens, self.reference_budget) if is_measured else tokens

    @contextlib.contextmanager
    def reference_row(self, tokens: int) -> Iterator[None]:
        """Context in which a row without gradient of `tokens` tokens runs."""
        self._reference_row = tokens
        yield
        self._reference_row = 0  # unless memory ran out

    def shorten_reference_rows(self) -> bool:
        """Halve rows without gradient if memory ran out in one of them. Returns whether that is so and they can be halved."""
        tokens, self._reference_row = self._reference_row, 0
        half = max(tokens // 2, self.row_tokens)
        if tokens <= self.row_tokens or (self.reference_budget is not None and half >= self.reference_budget):
            return False  # no longer than the policy's, or a single completion
        self.reference_budget = half
        return True

    def limit_reference_rows(self, tokens: int) -> None:
        """Limit rows without gradient to `tokens` tokens from now on."""
        self.reference_budget = tokens

    # Resuming --------------------------------------------------------------------------------------------------

    def resume(self, row_budget: int | None, reference_budget: int | None) -> None:
        """Restore the row lengths of a checkpoint, unless the user asks for shorter rows."""
        given = self._given
        self.row_budget = row_budget if row_budget is None or given is None else min(row_budget, given)
        self.reference_budget = reference_budget

    @property
    def _given(self) -> int | None:
        """Tokens of a row as the user set them."""
        return None if self.runtime.args.row_tokens == "auto" else self.runtime.args.row_tokens

    def _layers_always_recomputed(self, layers: list[nn.Module]) -> int:
        return len(layers) * bool(self.runtime.args.gradient_checkpointing)

    def _choosable(self, layers: list[nn.Module]) -> CheckpointedLayers:
        return CheckpointedLayers(self.runtime.base, layers, **(self.runtime.args.gradient_checkpointing_kwargs or {}))

    def _trial(self, sample: Sample) -> Callable[[int], tuple[Callable[[], torch.Tensor], int]]:
        """Make forward passes with gradients over sample rows."""

        def make(times: int) -> tuple[Callable[[], torch.Tensor], int]:
            batch, tokens = sample(times)
            return lambda: self._forward(batch), tokens

        return make

    def _forward(self, batch: dict[str, Any]) -> torch.Tensor:
        model = self.runtime.model
        was_training = model.training
        model.train()
        try:
            with torch.random.fork_rng(), self.runtime.autocast():
                return forward.run(model, batch).per_token_logps.sum()
        finally:
            model.train(was_training)
