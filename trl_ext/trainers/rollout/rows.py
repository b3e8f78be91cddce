"""Run policy, reference, critic and reward model on the completions of a rollout, in rows.

Rows are packed if the model supports it: the completions of a prompt share it, and nothing is padded. Otherwise they are
padded on the right. Passes without gradient are cut into rows here; an update cuts its rows itself, because each of them has a
backward pass (`trl_ext.trainers.rollout.backward`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trl_ext.batching.packed import Tree, joined_tokens, pack_joined, pack_rows
from trl_ext.batching.padded import cut_rows, padded_batch
from trl_ext.support.free_memory import release
from trl_ext.trainers.common import forward, packing, row_sample
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.rollout import token_ids
from trl_ext.trainers.rollout.passes import Passes


class Scored(NamedTuple):
    """Completions under a policy: log-probabilities and entropies (B, C), in nats per token; 0 where there is no token.

    `aux_loss` is the load-balancing loss (0-d) of a mixture of experts, or `None`.
    """

    logps: Tensor
    entropies: Tensor
    aux_loss: Tensor | None


class RolloutRows:
    """Cut completions into rows, and run these.

    Args:
        runtime: The policy, with the other roles on its base.
        memory: Limits the tokens of a row.
        pad_token_id: Pads rows that are not packed.
        has_aux_loss: A mixture of experts adds its load-balancing loss.

    Attributes:
        is_packed: Whether rows are packed; `None` before the first rollout.
    """

    def __init__(self, runtime: Runtime, memory: RowMemory, pad_token_id: int, *, has_aux_loss: bool = False) -> None:
        obstacle = packing.obstacle(
            runtime.args, runtime.model, has_second_model=False, own_inputs=None, has_aux_loss=has_aux_loss
        )
        self.runtime = runtime
        self.memory = memory
        self.proof = packing.PackingProof(runtime, obstacle)
        self.pad_token_id = pad_token_id
        self.is_packed: bool | None = None
        self.passes = Passes(self)

    def prepare(self, trees: list[Tree]) -> None:
        """Decide, before the first row, whether rows are packed and how long they are. The policy must be active.

        Every process has to call this.

        Raises:
            torch.OutOfMemoryError: The rows that are compared do not fit on some process.
        """
        if self.is_packed is not None:
            return
        is_packed = self.is_packed = self._decide(trees)
        sample = partial(row_sample.make, token_ids.comparable(trees)[0], is_packed, self.runtime.device)
        self.memory.settle(sample, max(self.size([tree]) for tree in trees))

    def _decide(self, trees: list[Tree]) -> bool:
        for most in (4, 2):  # completions that are compared
            try:
                return self.proof.decide(lambda most=most: token_ids.comparable(trees, most))
            except RowsDoNotFitError as error:
                quoted = error.quoted
            release()  # outside the handler: its traceback keeps memory
        raise torch.OutOfMemoryError(f"Memory ran out while packed rows were compared with padded ones{quoted}.")

    def cut(self, trees: Sequence[Tree], row_tokens: int | None = None) -> list[list[int]]:
        """Distribute the indices of `trees` over rows of up to `row_tokens` tokens (default: those of an update)."""
        limit, everything = row_tokens or self.memory.row_tokens, range(len(trees))
        if self.is_packed:
            return pack_rows(everything, trees.__getitem__, limit)
        each = len(trees[0].completions) if trees else 1
        return cut_rows(everything, lambda i: _longest(trees[i]), sequences=each, row_tokens=limit)

    def size(self, trees: Sequence[Tree]) -> int:
        """Tokens that a row computes, padding included."""
        if self.is_packed:
            return joined_tokens(trees)
        return sum(len(tree.completions) for tree in trees) * max(map(_longest, trees), default=0)

    def score(self, model: nn.Module, trees: list[Tree], width: int, *, router_logits: bool = False) -> Scored:
        """Log-probabilities and entropies of completions, (B, C); with gradient in a single row.

        Args:
            model: The policy or, with its adapter off, the reference; patched by TRL's `add_fused_lm_head`.
            trees: B prompts with one completion each.
            width: C.
            router_logits: Ask a mixture of experts for its auxiliary loss, a mean over rows.
        """

        def fields_of(batch: dict[str, Any]) -> tuple:
            fields = forward.run(model, batch, router_logits=router_logits)
            return (fields.per_token_logps, fields.entropy), fields.mask, fields.aux_loss

        (logps, entropies), aux_loss = self._run(trees, width, 2, fields_of)
        return Scored(logps, entropies, aux_loss)

    def scalars(self, trees: list[Tree], width: int, head: nn.Module) -> Tensor:
        """The number that a scalar head gives the state before each token of the completions, (B, C).

        With gradient in a single row. Runs the backbone with whichever adapter is active.
        """

        def numbers_of(batch: dict[str, Any]) -> tuple:
            numbers, mask = forward.scalars(self.runtime.model, head, batch)
            return (numbers,), mask, None

        ((numbers,), _) = self._run(trees, width, 1, numbers_of)
        return numbers

    def _run(self, trees: list[Tree], width: int, count: int, compute: Callable) -> tuple[Sequence[Tensor], Any]:
        if torch.is_grad_enabled():
            return self._run_row(trees, width, count, compute)
        return self.passes.run(trees, lambda row: self._run_row(row, width, count, compute))

    def _run_row(self, trees: list[Tree], width: int, count: int, compute: Callable) -> tuple[list[Tensor], Any]:
        """`count` tables (B, C) of one row."""
        if not any(completion for tree in trees for completion in tree.completions):
            return [self._nothing(len(trees), width)] * count, None
        with self.runtime.autocast():
            tables, mask, aux_loss = compute(self._collate(trees))
        return [forward.at_the_start(table, mask, width) for table in tables], aux_loss

    def _collate(self, trees: list[Tree]) -> dict[str, Any]:
        if self.is_packed:
            return {"packed": pack_joined(trees).to(self.runtime.device)}
        batch = padded_batch(trees, self.pad_token_id)
        batch["places"] = forward.scored_places(batch["completion_mask"])
        return {name: tensor.to(self.runtime.device) for name, tensor in batch.items()}

    def _nothing(self, rows: int, width: int) -> Tensor:
        """Zeros (B, C) for a row without a single token. Their gradient is 0, as that of TRL's masked completions."""
        zeros = torch.zeros(rows, width, device=self.runtime.device)
        trained = [p for p in self.runtime.model.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
        return zeros + sum(parameter.sum() * 0.0 for parameter in trained)


def _longest(tree: Tree) -> int:
    return len(tree.prompt) + max(map(len, tree.completions))
