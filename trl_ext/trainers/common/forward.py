"""Run a forward pass over a padded or packed row, and return what losses and metrics read."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import is_peft_model
from torch import nn

from trl_ext.batching import attention, images, noise
from trl_ext.batching.head import head_sees, small_tiles
from trl_ext.batching.packed import PackedRow
from trl_ext.batching.token_kl import States
from trl_ext.batching.transfer import to_device

# Keys of TRL's collators that describe the batch but are not arguments of a model.
NOT_FOR_THE_MODEL = {
    "completion_mask",
    "label",
    "learned",
    "margin",
    "places",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "ref_logps",
    "sequences",
    "z_ref",
}

MISMATCHED = "KL_"
"""How TRL's collators begin the keys of mismatched pairs."""

TABLES = ("per_token_logps", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
"""Fields of `Completions` with a value for each token, besides the mask."""


@dataclass
class Completions:
    """Per-token fields of S completions; zero at other tokens.

    Attributes:
        per_token_logps: log π(token | prefix) of each completion token, shape (S, W).
        mask: 1 at completion tokens, shape (S, W).
        entropy, mean_logits, is_top1, log_sum_sq_probs: as in TRL's fused LM head, (S, W), or `None`.
        aux_loss: Load-balancing loss of a mixture-of-experts model, scalar, or `None`.
    """

    per_token_logps: torch.Tensor
    mask: torch.Tensor
    entropy: torch.Tensor | None
    mean_logits: torch.Tensor | None
    is_top1: torch.Tensor | None
    log_sum_sq_probs: torch.Tensor | None
    aux_loss: torch.Tensor | None

    @property
    def lens(self) -> torch.Tensor:
        """Number of scored completion tokens, shape (S,)."""
        return self.mask.sum(dim=1)

    def only(self, learned: torch.Tensor | None) -> "Completions":
        """The same fields with the tokens that are read and not learned masked out.

        Args:
            learned: Whether each of the N scored tokens is learned, completion by completion; `None` if all are.
        """
        if learned is None:
            return self
        kept = torch.zeros_like(self.mask, dtype=torch.bool).masked_scatter(self.mask.bool(), learned)

        def field(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.where(kept, torch.zeros_like(values))

        tables = {name: field(getattr(self, name)) for name in TABLES}
        return replace(self, mask=self.mask * kept, **tables)


class Row(NamedTuple):
    """What a model is given for a row, and where its outputs belong.

    Attributes:
        inputs: Arguments of the model and of its backbone.
        labels: The scored tokens, (1, N).
        mask: 1 at the places of the scored tokens in a table of completions, (S, W).
        select: Takes hidden states (S, T, H) and returns those before the N scored tokens, (1, N, H).
        spread: Takes values of the scored tokens, (N,), to their places in the table, (S, W); zero elsewhere.
        context: In it, attention and noise follow the row.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    mask: torch.Tensor
    select: Callable[[torch.Tensor], torch.Tensor]
    spread: Callable[[torch.Tensor], torch.Tensor]
    context: AbstractContextManager


def run(
    model: nn.Module, batch: dict[str, Any], *, router_logits: bool = False, states: list[States] | None = None
) -> Completions:
    """Score the completion tokens of a row with a model patched by TRL's `add_fused_lm_head`.

    Args:
        model: Policy or reference; its fused head never builds the (S, T, V) logits.
        batch: A packed row under `packed`, or the output of one of TRL's preference collators: `input_ids`,
            `attention_mask` and `completion_mask` of shape (S, T); plus whatever a vision model needs.
        router_logits: Ask a mixture-of-experts model for its auxiliary loss.
        states: The states from which the LM head computes the scored tokens are added to it.
    """
    row, base = row_of(batch), _base(model)
    asked = {"output_router_logits": True} if router_logits else {}

    def select(hidden: torch.Tensor) -> torch.Tensor:
        selected = row.select(hidden)
        if states is not None:
            head = base.get_output_embeddings()
            states.append(States(selected[0], head.weight, head.bias))
        return selected

    with row.context, small_tiles(row.mask.device), head_sees(base, select):
        output = model(**row.inputs, **asked, use_cache=False, fused_lm_head=True, shift_labels=row.labels)
    return _completions(output, row.mask, row.spread)


def token_table(batch: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
    """Values of the scored tokens of a row, (N,), as a table of its completions, (S, W); zero elsewhere."""
    return row_of(batch).spread(values)


def scalars(model: nn.Module, head: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The number that a scalar head gives each completion token's predecessor: the value of the state before the token.

    Runs the backbone with whichever adapter is active, without the language model's head.

    Args:
        model: A PEFT model.
        head: Takes (…, H) to (…).
        batch: As for `run`.

    Returns:
        The numbers and their mask, (S, W) each.
    """
    row = row_of(batch)
    with row.context:
        hidden = _base(model).base_model(**row.inputs, use_cache=False).last_hidden_state
    return row.spread(head(row.select(hidden)).flatten()), row.mask


def at_the_start(table: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    """Move the values that a mask selects to the start of their rows, (S, W) to (S, width); 0 after them."""
    order = (mask == 0).to(torch.int8).argsort(dim=1, stable=True)
    moved = table.gather(1, order)[:, :width]
    return nn.functional.pad(moved, (0, width - moved.size(1)))


def row_of(batch: dict[str, Any]) -> Row:
    """Read a batch as `run` takes it."""
    if "packed" not in batch:
        return _padded(batch)
    row = _packed(batch["packed"])
    # Pairs with images bring more than their row (`trl_ext.batching.images`).
    return row._replace(inputs=row.inputs | images.for_the_model(batch)) if "source" in batch else row


def _padded(batch: dict[str, Any]) -> Row:
    mask = batch["completion_mask"][:, 1:]
    places = batch["places"] if "places" in batch else scored_places(batch["completion_mask"])
    width = mask.size(1) + 1

    def select(hidden: torch.Tensor) -> torch.Tensor:
        # Prompt-learning PEFT prepends virtual tokens: the real ones are the last `width`.
        return hidden[:, -width:][:, :-1].flatten(0, 1).index_select(0, places)[None]

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(mask.numel()).index_put((places,), values).view(mask.shape)

    lengths = noise.of_lengths(lambda: batch["attention_mask"].sum(dim=1, keepdim=True))
    labels = batch["input_ids"][:, 1:].flatten().index_select(0, places)[None]
    return Row(for_the_model(batch), labels, mask, select, spread, lengths)


def _packed(row: PackedRow) -> Row:
    inputs = {
        "input_ids": row.input_ids,
        "position_ids": row.position_ids,
        # All ones rather than absent: without a mask, transformers would infer sequences from the positions.
        "attention_mask": torch.ones_like(row.input_ids),
    }

    def select(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.index_select(1, row.scored)

    labels = row.labels.index_select(1, row.scored)
    mask = row.scatter(torch.ones_like(row.scored))
    return Row(inputs, labels, mask, select, row.scatter, _context(row))


@contextlib.contextmanager
def _context(row: PackedRow) -> Iterator[None]:
    with noise.of_lengths(lambda: noise.lengths_in(row.layout)), attention.packed(row.layout):
        yield


def for_the_model(batch: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model in a collated batch, without those of TRL's mismatched pairs."""
    return {
        key: value for key, value in batch.items() if key not in NOT_FOR_THE_MODEL and not key.startswith(MISMATCHED)
    }


def scored_places(completion_mask: torch.Tensor) -> torch.Tensor:
    """Where the completion tokens, without the first of a sequence, lie in the flattened next tokens (S · (T − 1)); shape (N,).

    Args:
        completion_mask: 1 at completion tokens, (S, T). On a GPU this makes the CPU wait.
    """
    return completion_mask[:, 1:].flatten().nonzero().squeeze(1)


def to_arrays(fields: Completions) -> list[np.ndarray]:
    """Per-token log-probabilities of each completion, float32, without padding."""
    logps, mask = torch.stack([fields.per_token_logps.float(), fields.mask.float()]).cpu().numpy()
    return [row[scored > 0] for row, scored in zip(logps, mask, strict=True)]


def from_arrays(arrays: list[np.ndarray], device: torch.device) -> Completions:
    """Invert `to_arrays`. Fields other than the log-probabilities and the mask are `None`."""
    logps = torch.zeros(len(arrays), max(map(len, arrays)))
    mask = torch.zeros_like(logps, dtype=torch.long)
    for i, array in enumerate(arrays):
        logps[i, : len(array)] = torch.from_numpy(array)
        mask[i, : len(array)] = 1
    moved = to_device({"logps": logps, "mask": mask}, device)
    return Completions(moved["logps"], moved["mask"], None, None, None, None, None)


def num_tokens(batch: dict[str, Any]) -> torch.Tensor | int:
    """Tokens of a row's sequences without padding. A prompt counts once per completion, as in TRL."""
    return batch["num_tokens"] if "packed" in batch else batch["attention_mask"].sum()


def _base(model: nn.Module) -> nn.Module:
    """The `transformers` model without the wrappers of DDP and the adapter."""
    base = model.get_base_model() if is_peft_model(model) else getattr(model, "module", model)
    return base.get_base_model() if is_peft_model(base) else base


def _completions(output: Any, mask: torch.Tensor, spread: Callable[[torch.Tensor], torch.Tensor]) -> Completions:
    def field(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else spread(values.flatten())

    return Completions(
        per_token_logps=field(output.log_probs),
        mask=mask,
        entropy=field(output.entropy),
        mean_logits=field(output.mean_logits),
        is_top1=field(output.is_top1),
        log_sum_sq_probs=field(output.log_sum_sq_probs),
        aux_loss=output.aux_loss,
    )
