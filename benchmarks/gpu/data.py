"""Write random words with the token lengths of real preference pairs, and a tokenizer with one token per word.

The data then takes the same path as any other: it is read from a file, checked, tokenised and truncated.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks import lengths

WORDS = 4096
"""Number of different words: enough that no two completions are equal."""
PAD, EOS = "<pad>", "</s>"
LONGEST_PROMPT = 512
"""Maximum tokens of a prompt for which completions are sampled; the planner assumes the same."""


def table(name: str) -> list[tuple[int, int, int]]:
    """Tokens of prompt, chosen and rejected completion of every pair of a table."""
    content = json.loads((Path(lengths.__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return [tuple(row) for row in content["lengths"]]


def write(file: Path, rows: list[tuple[int, int, int]], words: int, longest_prompt: int | None = None) -> None:
    """Write pairs with these numbers of tokens as text. A completion has one word less, because its end is also a token."""
    rng = random.Random(0)

    def text(count: int) -> str:
        return " ".join(f"w{rng.randrange(words)}" for _ in range(count))

    with file.open("w", encoding="utf-8") as lines:
        for prompt, chosen, rejected in rows:
            prompt = min(prompt, longest_prompt or prompt)
            pair = {"prompt": text(max(prompt, 1))}
            pair |= {"chosen": f" {text(max(chosen - 1, 1))}", "rejected": f" {text(max(rejected - 1, 1))}"}
            lines.write(json.dumps(pair) + "\n")


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word of `write`, limited to a model's `vocabulary`."""
    count = min(WORDS, vocabulary - 3)
    ids = {PAD: 0, EOS: 1, "<unk>": 2, **{f"w{i}": 3 + i for i in range(count)}}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token="<unk>", padding_side="left"
    )


def words(config: dict[str, Any]) -> int:
    """Number of different words that a model can embed."""
    return min(WORDS, config.get("text_config", config)["vocab_size"] - 3)
