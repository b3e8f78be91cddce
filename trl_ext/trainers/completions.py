"""One forward pass over a collated batch, reduced to what losses and metrics read."""

from dataclasses import dataclass

import torch
from torch import nn

# Keys of TRL's collators that describe the batch but are not arguments of a model.
NOT_FOR_THE_MODEL = {"completion_mask", "label", "ref_chosen_logps", "ref_rejected_logps", "ref_logps"}


@dataclass
class Completions:
    """Per-token fields of S sequences at T−1 predicted positions, zero outside the completion.

    Attributes:
        per_token_logps: log π(token | prefix) of each completion token, shape (S, T−1).
        mask: 1 at completion tokens, shape (S, T−1).
        entropy, mean_logits, is_top1, log_sum_sq_probs: as in TRL's fused LM head, (S, T−1), or `None`.
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
        """Completion tokens that were scored, shape (S,)."""
        return self.mask.sum(dim=1)


def run(model: nn.Module, batch: dict[str, torch.Tensor], *, router_logits: bool = False) -> Completions:
    """Score the completion tokens of a batch with a model patched by TRL's `add_fused_lm_head`.

    Args:
        model: Policy or reference; its fused head never builds the (S, T, V) logits.
        batch: Output of one of TRL's preference collators: `input_ids`, `attention_mask` and `completion_mask`
            of shape (S, T), plus whatever a vision model needs.
        router_logits: Ask a mixture-of-experts model for its auxiliary loss.
    """
    inputs = {key: value for key, value in batch.items() if key not in NOT_FOR_THE_MODEL}
    if router_logits:
        inputs["output_router_logits"] = True
    completion_mask = batch["completion_mask"]
    labels = batch["input_ids"].masked_fill(completion_mask == 0, -100)
    output = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)
    mask = completion_mask[:, 1:]
    width = mask.size(1)

    def real_tokens(field: torch.Tensor | None) -> torch.Tensor | None:
        # Prompt-learning PEFT prepends virtual tokens to the outputs.
        return None if field is None else field[:, -width:]

    return Completions(
        per_token_logps=real_tokens(output.log_probs),
        mask=mask,
        entropy=real_tokens(output.entropy),
        mean_logits=real_tokens(output.mean_logits),
        is_top1=real_tokens(output.is_top1),
        log_sum_sq_probs=real_tokens(output.log_sum_sq_probs),
        aux_loss=output.aux_loss,
    )
