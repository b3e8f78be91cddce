"""Compare the model that training starts from with the one that was given: base and adapter, as plain PEFT loads them.

The yardstick is computed before a trainer's constructor changes the model, so no second copy of the base is needed: the
log-probabilities of a short row, by the model's own forward pass. After construction, the policy and its reference score the
same row by the forward pass of training.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trl_ext.reference.implicit import FROZEN_COPY, implicit_reference, no_grad_eval
from trl_ext.support.frozen_base import keep_exact_cpu_kernels

LENGTH = 48
"""Tokens of the row, besides those that the adapter trains one by one."""
TOLERANCE = 1e-4
"""Mean difference in nats per token. In float32 the two forward passes differ by about 1e-6."""
TOLERANCE_16_BIT = 5e-2
"""Rounding to 16 bits stays below it."""


class WrongStartError(ValueError):
    """Policy or reference differs from base and adapter as plain PEFT loads them."""


class StartingPoint:
    """The log-probabilities of a fixed row under a model with an adapter.

    Args:
        model: As it was given to a trainer.
        temperature: The logits of training are divided by it.
    """

    def __init__(self, model: PeftModel, temperature: float = 1.0) -> None:
        keep_exact_cpu_kernels(model)
        self.ids = _row(model)
        logits = _run(model, self.ids).logits[:, :-1].float() / temperature
        self.logps = logits.log_softmax(dim=-1).gather(-1, self.ids[:, 1:, None]).squeeze(-1).cpu()

    @classmethod
    def of(cls, model: Any, temperature: float = 1.0) -> "StartingPoint | None":
        """That of a model with an adapter; `None` for a path or another model."""
        return cls(model, temperature) if isinstance(model, PeftModel) else None

    def compare(self, model: PeftModel, autocast: Callable[[], AbstractContextManager], *, is_rounded: bool) -> str:
        """Compare policy and reference with the model that was given; returns a sentence for the log.

        Args:
            model: In a trainer: patched by TRL's `add_fused_lm_head`, with the copy `ref` if it is the reference.
            autocast: Context of the trainer's forward passes.
            is_rounded: Forward passes round to 16 or to 8 bits.

        Raises:
            WrongStartError: One of them differs.
        """
        bound, apart = TOLERANCE_16_BIT if is_rounded else TOLERANCE, {}
        for role, context in self._roles(model):
            with context, autocast():
                output = _run(model, self.ids.to(model.device), labels=self.ids.to(model.device), fused_lm_head=True)
            scored = output.log_probs[:, -self.logps.shape[1] :].float().cpu()
            apart[role] = (scored - self.logps).abs().mean().item()
        for role, distance in apart.items():
            if not distance <= bound:
                raise WrongStartError(
                    f"Before the first step, the {role} differs by {distance:.2g} nats per token from base and adapter as PEFT "
                    f"loads them, which is more than rounding explains ({bound:g}). The run would start from another model than "
                    "the one that was given, so it was stopped. Merge the adapter into its base, and train a new adapter on the "
                    "result."
                )
        both = "policy and reference equal" if len(apart) > 1 else "the policy equals"
        return f"start: {both} base and adapter as PEFT loads them ({max(apart.values()):.1g} nats per token apart)"

    def _roles(self, model: PeftModel) -> Iterator[tuple[str, AbstractContextManager]]:
        yield "policy", nullcontext()
        if FROZEN_COPY in model.peft_config:
            yield "reference", implicit_reference(model)


def adapter_has_no_effect(model: PeftModel) -> bool:
    """Whether a new adapter changes no log-probability of the row, to the bit."""
    ids = _row(model)
    policy = _run(model, ids).logits
    with implicit_reference(model):
        return torch.equal(policy, _run(model, ids).logits)


def _run(model: nn.Module, ids: Tensor, **options: Any) -> Any:
    with no_grad_eval(model):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)


def _row(model: PeftModel) -> Tensor:
    """Token ids (1, T) from all over the vocabulary, without special tokens, and every token that the adapter trains alone."""
    config = model.get_base_model().config
    settings = {**config.to_dict(), **config.get_text_config().to_dict()}
    ids = (value for name, value in settings.items() if name.endswith(("_token_id", "_token_index")))
    special = {each for value in ids for each in (value if isinstance(value, list) else [value])}
    size = model.get_input_embeddings().weight.shape[0]
    spread = [i for i in range(0, size, max(1, size // (2 * LENGTH))) if i not in special][:LENGTH]
    return torch.tensor([spread + _trained_tokens(model)], device=model.device)


def _trained_tokens(model: PeftModel) -> list[int]:
    adapter = model.active_peft_config
    given = getattr(adapter, "trainable_token_indices", None) or getattr(adapter, "token_indices", None) or []
    lists = given.values() if isinstance(given, dict) else [given]
    return sorted({int(i) for each in lists for i in each})[:LENGTH]
