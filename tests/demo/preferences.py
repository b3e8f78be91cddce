"""Measure held-out preference accuracy, independently of the loss and its beta."""

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from trl_ext.support.sampling import Completion, as_messages, logps


def held_out(model: PeftModel, tokenizer: PreTrainedTokenizerBase, pairs: list[dict]) -> dict[str, float]:
    """How the adapter ranks pairs by its log-ratio log π/π_ref, summed over each completion.

    Args:
        model: The trained `PeftModel`; the reference is the same model with its adapter off.
        tokenizer: With a chat template.
        pairs: Conversational `prompt`, `chosen`, `rejected`.

    Returns:
        `accuracy`, the share of pairs whose chosen completion has the larger log-ratio, ties counting one half
        (so exactly 0.5 before training), and `margin`, the mean difference in nats.
    """
    completions = [_completion(pair, side, tokenizer) for side in ("chosen", "rejected") for pair in pairs]
    policy = logps(model, tokenizer, completions)
    with model.disable_adapter():
        reference = logps(model, tokenizer, completions)
    chosen, rejected = (policy - reference).chunk(2)
    margin = chosen - rejected
    return {
        "accuracy": ((margin > 0).double() + 0.5 * (margin == 0).double()).mean().item(),
        "margin": margin.mean().item(),
        "margin_se": (margin.std() / len(pairs) ** 0.5).item() if len(pairs) > 1 else 0.0,
        "reference_accuracy": torch.gt(*reference.chunk(2)).double().mean().item(),
    }


def _completion(pair: dict, side: str, tokenizer: PreTrainedTokenizerBase) -> Completion:
    messages = as_messages(pair["prompt"])
    prompt_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(messages + pair[side], return_dict=False)
    return Completion(prompt_ids, ids[len(prompt_ids) :], pair[side][-1]["content"], True)
