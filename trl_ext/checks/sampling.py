"""Rules about the sampled distribution: PPO scores the full policy at `temperature`, so it should sample from it.

Log-probabilities are those of the full policy at `temperature`. Sampling from a truncated or reshaped distribution biases
every estimate made from the samples.
"""

from collections.abc import Iterator
from typing import Any

from trl_ext.checks.rule import is_policy_gradient, note
from trl_ext.checks.settings import Settings
from trl_ext.support.messages import joined

NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "vllm_structured_outputs_regex": None,
}
"""Settings that change the sampled distribution, and the value at which they have no effect."""

NEUTRAL_IN_GENERATION = {
    **NEUTRAL,
    "do_sample": True,
    "num_beams": 1,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "min_tokens": 0,
    "guidance_scale": 1.0,
    "penalty_alpha": None,
    "exponential_decay_length_penalty": None,
    "bad_words": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "logit_bias": None,
    "allowed_token_ids": None,
    "structured_outputs": None,
    "watermarking_config": None,
}
"""The same for the entries of `generation_kwargs`, which transformers or vLLM reads."""


@note("generation_kwargs", "temperature", *NEUTRAL, applies_to=is_policy_gradient)
def sampling(s: Settings) -> Iterator[str]:
    kwargs = s["generation_kwargs"]
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    given = [
        (s.where(key), s[key], _remedy(key, neutral))
        for key, neutral in NEUTRAL.items()
        if key not in kwargs and not _is_neutral(key, s[key], neutral)
    ]
    neutral_of = NEUTRAL_IN_GENERATION | {"temperature": s["temperature"]}
    given += [
        (f"`{key}` in {s.where('generation_kwargs')}", value, f"remove `{key}` from `generation_kwargs`")
        for key, value in kwargs.items()
        if key in neutral_of and not _is_neutral(key, value, neutral_of[key])
    ]
    if given:
        yield _unscored(given)


def sampling_of_model(inherited: dict[str, Any]) -> str | None:
    """The same sentence about a model's generation_config.json, which adds to each call of `generate`; `None` if it is neutral."""
    remedy = "remove it from generation_config.json, or set it to its neutral value in `generation_kwargs`"
    given = [
        (f"`{key}` of the model's own generation config", value, remedy)
        for key, value in inherited.items()
        if key in NEUTRAL_IN_GENERATION and not _is_neutral(key, value, NEUTRAL_IN_GENERATION[key])
    ]
    return _unscored(given) if given else None


def _unscored(given: list[tuple[str, Any, str]]) -> str:
    settings = joined([f"{where} is {value}" for where, value, _ in given])
    remedies = joined(list(dict.fromkeys(remedy for _, _, remedy in given)))
    return (
        f"{settings}, so completions are not sampled from the distribution that is scored. Log-probabilities, importance "
        "ratios and the KL are those of the full policy at `temperature`; estimated from these samples they are biased. For "
        f"unbiased estimates {remedies}."
    )


def _is_neutral(key: str, value: Any, neutral: Any) -> bool:
    return value is None or value == neutral or value in ([], {}) or (key == "top_k" and value == -1)


def _remedy(key: str, neutral: Any) -> str:
    return f"remove `{key}`" if neutral is None else f"set `{key}: {neutral}`"
