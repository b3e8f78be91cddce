"""Sample preference pairs from the model itself: the best and the worst of a few completions of each prompt."""

import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trl_ext.demo import grammar
from trl_ext.support.sampling import sample

Pair = dict[str, list[dict[str, str]]]


def sample_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[grammar.Prompt],
    *,
    n_answers: int,
    min_gap: float,
    seed: int,
    max_new_tokens: int,
) -> list[Pair]:
    """Sample one pair per prompt, in TRL's conversational format, from `n_answers` completions each.

    A prompt is left out if the rewards of its best and worst completion differ by less than `min_gap`, so that a
    preference reflects the reward and not a random difference of one word.
    """
    texts = [prompt.text for prompt in prompts]
    rounds = [sample(model, tokenizer, texts, seed=seed + i, max_new_tokens=max_new_tokens) for i in range(n_answers)]
    pairs = []
    for prompt, *answers in zip(texts, *rounds, strict=True):
        ranked = sorted((answer.text for answer in answers if answer.is_ended), key=grammar.reward)
        if ranked and grammar.reward(ranked[-1]) - grammar.reward(ranked[0]) >= min_gap:
            turns = {
                "prompt": ("user", prompt),
                "chosen": ("assistant", ranked[-1]),
                "rejected": ("assistant", ranked[0]),
            }
            pairs.append({name: [{"role": role, "content": text}] for name, (role, text) in turns.items()})
    return pairs


def write_jsonl(pairs: list[Pair], path: Path) -> None:
    """Write one pair per line."""
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
