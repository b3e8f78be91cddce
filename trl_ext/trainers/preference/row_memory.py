"""How long rows are and how many layers are recomputed, from memory measured on the model itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trl_ext.batching import budget
from trl_ext.batching.packed import Tree, pack
from trl_ext.batching.padded import padded_batch
from trl_ext.trainers.common import lora
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError
from trl_ext.trainers.preference import activation_memory, forward

TRIAL_TOKENS = 256
"""Tokens of the row on which memory is measured: enough to average over, few enough to fit anywhere."""


class RowMemory:
    """Mixin: settles `row_tokens: auto` and `gradient_checkpointing: auto`.

    Recomputing is decided row by row: as few layers as that row needs, none where it fits without. It changes no
    number, so processes and resumed runs may differ in it.

    Attributes read: `args`, `model`, `optimizer`, `_is_packed`.
    """

    _row_budget: int | None = None  # tokens; settled before the first row, lowered where memory runs out
    _activation_memory: budget.Memory | None = None  # known where checkpointing is ours to choose
    _layers: list[nn.Module] | None = None  # in the order they run, likewise
    _checkpointed_layers: int | None = None  # of them, in the row at hand
    _longest_row: int = 0  # tokens of the longest row trained on so far

    @property
    def row_tokens(self) -> int:
        """Tokens a row may hold."""
        if self._row_budget is not None:
            return self._row_budget
        return budget.LARGEST_ROW if self.args.row_tokens == "auto" else self.args.row_tokens

    @property
    def longest_row(self) -> tuple[int, int]:
        """Tokens of the longest row trained on so far, and how many layers were recomputed in it."""
        if self._activation_memory is not None:
            return self._longest_row, self._activation_memory.layers_to_checkpoint(self._longest_row)
        if self._checkpointed_layers is not None:
            return self._longest_row, self._checkpointed_layers
        all_layers = len(activation_memory.layers_of(self._base_model()))
        return self._longest_row, all_layers * bool(self.args.gradient_checkpointing)

    def _settle_memory(self, examples: list[dict]) -> None:
        """Measure the model and choose the length of rows, where either is asked for.

        A resumed run keeps the row length of its checkpoint, so that it adds in the same order.
        """
        is_auto = self.args.gradient_checkpointing == "auto"
        given = self._row_budget or (None if self.args.row_tokens == "auto" else self.args.row_tokens)
        if given is not None and not is_auto:
            return
        base = self._base_model()
        try:
            with activation_memory.nothing_checkpointed(base):
                measured, layers = self._locally(lambda: activation_memory.footprint(base, self._trial_pass(examples)))
        except RowsDoNotFitError:
            self._row_budget = given or max(self._row_size([example]) for example in examples)
            self._layers = activation_memory.layers_of(base) if is_auto else None
            self._recompute_everything()
            say(self.accelerator, "memory: not even a short row fits with all activations kept")
            return
        free = activation_memory.free_for_activations(base, self.optimizer, self.args.optim, self.args.device)
        room = budget.Memory(measured, free)
        count = None if is_auto else len(layers) * bool(self.args.gradient_checkpointing)
        self._row_budget = given or budget.row_length(room, count)
        if is_auto:
            self._activation_memory, self._layers = room, layers
        say(self.accelerator, f"memory: {budget.in_words(room, self._row_budget, count)}")

    def _trial_pass(self, examples: list[dict]) -> Callable[[int], tuple[Callable[[], torch.Tensor], int]]:
        """Forward passes with gradients over the first example: makes one `times` as long as the shortest."""
        tree = self._proof_tree(examples[0], examples)
        tree = Tree(tree.prompt[-TRIAL_TOKENS // 2 :], [c[: TRIAL_TOKENS // 4] for c in tree.completions])
        repeats = max(TRIAL_TOKENS // max(tree.tokens, 1), 1)

        def make(times: int) -> tuple[Callable[[], torch.Tensor], int]:
            if self._is_packed:
                row = pack([tree] * repeats * times)
                batch, tokens = {"packed": row.to(self.args.device)}, row.input_ids.numel()
            else:
                one = padded_batch(tree, pad_token_id=0)  # any id: padding is masked
                batch = self._prepare_inputs({name: ids.repeat(repeats * times, 1) for name, ids in one.items()})
                tokens = batch["input_ids"].numel()
            return lambda: self._forward_in_training(batch), tokens

        return make

    def _forward_in_training(self, batch: dict[str, Any]) -> torch.Tensor:
        was_training = self.model.training
        self.model.train()
        try:
            with torch.random.fork_rng(), self.compute_loss_context_manager():
                return forward.run(self.model, batch).per_token_logps.sum()
        finally:
            self.model.train(was_training)

    def _checkpoint_for(self, row: list[dict]) -> None:
        """Recompute as many layers as this row needs."""
        tokens = self._row_size(row)
        self._longest_row = max(self._longest_row, tokens)
        if self._activation_memory is not None:
            self._checkpoint_layers(self._activation_memory.layers_to_checkpoint(tokens))

    def _recompute_everything(self) -> bool:
        """From here on recompute all layers, if that is ours to choose; whether it changed anything."""
        if self._layers is None or (self._activation_memory is None and self._checkpointed_layers is not None):
            return False
        self._activation_memory = None
        self._checkpoint_layers(len(self._layers))
        return True

    def _checkpoint_layers(self, count: int) -> None:
        if count != self._checkpointed_layers:
            kwargs = self.args.gradient_checkpointing_kwargs or {}
            activation_memory.checkpoint(self._base_model(), self._layers, count, **kwargs)
            self._checkpointed_layers = count

    def _base_model(self) -> nn.Module:
        return self.model.get_base_model() if lora.has_adapter(self.model) else self.model
