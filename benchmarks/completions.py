"""Measure the effect of alignment: true reward, fluency and KL of completions sampled with the adapter on and off."""

import json
import math
import statistics
from collections.abc import Callable
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from trl_ext.demo import DATA, grammar
from trl_ext.support.sampling import Completion, Messages, as_messages, logps, sample


def held_out_prompts() -> list[Messages]:
    """The prompts of the embedded test split, none of which is in its train split."""
    lines = (DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def grammar_fluency(completion: str, prompt: Messages) -> float:
    """Share of the completion's sentences that parse and are about the thing the prompt asks for."""
    return grammar.fluency(completion, thing=grammar.thing_of(prompt[-1]["content"]))


def evaluate(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str | Messages] | None = None,
    *,
    n: int = 250,
    seed: int = 0,
    max_new_tokens: int = 80,
    n_samples: int = 4,
    reward: Callable[[str], float] = grammar.reward,
    fluency: Callable[[str, Messages], float] | None = grammar_fluency,
) -> dict[str, Any]:
    """Compare the policy (adapter on) with the reference (adapter off) on `n` completions of each.

    Args:
        prompts: questions or conversations to answer, repeated in turn until there are `n`. If None, the held-out
            prompts of the embedded preference set.
        n: number of completions of each model.
        seed: seed of the sampling.
        max_new_tokens: largest number of tokens per completion.
        n_samples: number of completions returned as text.
        reward: score of a completion's text.
        fluency: share in [0, 1], given a completion's text and its prompt; None if fluency cannot be measured.

    Returns:
        `before` and `after`: means over the n completions of `reward`, `fluency` and `length` (tokens, end token
        included), each with its standard error (`reward_se`, …), and `ended`, the share that ended with the end
        token within `max_new_tokens`. `kl` and `kl_se`: KL(policy ‖ reference) in nats per completion, the mean over
        the policy's own completions of log π − log π_ref summed over tokens (unbiased, so it can come out slightly
        negative near the reference). `samples`: `n_samples` dicts of prompt, before and after. `n`.

    Raises:
        ValueError: the model has no adapter, so it has no reference.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"evaluate() compares a model with its adapter on and off, but {type(model).__name__} has no "
            "adapter. Pass the trained PeftModel."
        )
    prompts = held_out_prompts() if prompts is None else prompts
    prompts = [as_messages(prompts[i % len(prompts)]) for i in range(n)]
    after = sample(model, tokenizer, prompts, seed=seed, max_new_tokens=max_new_tokens)
    policy_logps = logps(model, tokenizer, after)
    with model.disable_adapter():
        before = sample(model, tokenizer, prompts, seed=seed, max_new_tokens=max_new_tokens)
        log_ratios = policy_logps - logps(model, tokenizer, after)
    kl, kl_se = _mean_and_error(log_ratios.tolist())
    return {
        "before": _summary(before, prompts, reward, fluency),
        "after": _summary(after, prompts, reward, fluency),
        "kl": kl,
        "kl_se": kl_se,
        "samples": [
            {"prompt": prompt[-1]["content"], "before": old.text, "after": new.text}
            for prompt, old, new in zip(prompts[:n_samples], before, after, strict=False)
        ],
        "n": n,
    }


def _summary(
    completions: list[Completion],
    prompts: list[Messages],
    reward: Callable[[str], float],
    fluency: Callable[[str, Messages], float] | None,
) -> dict[str, float]:
    values = {
        "reward": [reward(completion.text) for completion in completions],
        "length": [float(len(completion.ids)) for completion in completions],
    }
    if fluency is not None:
        values["fluency"] = [fluency(c.text, prompt) for c, prompt in zip(completions, prompts, strict=True)]
    summary = {}
    for name, numbers in values.items():
        summary[name], summary[f"{name}_se"] = _mean_and_error(numbers)
    summary["ended"] = statistics.fmean(completion.is_ended for completion in completions)
    return summary


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error (0 for a single value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error
