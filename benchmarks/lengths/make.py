"""Count the tokens of preference pairs and save the counts.

    python -m benchmarks.lengths.make NAME FILE [--rows 768] [--longest]

FILE is any preference file or Hub name that `trl-ext run` reads. The tokenizer is that of `benchmarks.step`: a byte-pair
encoding of 16,384 tokens trained on FILE, with role markers and an end token. Tokenizers of real models have larger
vocabularies and give fewer tokens for the same text. Rows are drawn at random; with `--longest`, only from the rows with the
most tokens. The prompt of a pair is the common prefix of both completions, with the generation prompt.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from benchmarks.setting import VOCABULARY, make_tokenizer
from trl_ext import data

FOLDER = Path(__file__).parent
Row = tuple[int, int, int]


def lengths(row: dict, tokenizer: PreTrainedTokenizerFast) -> Row:
    """Tokens of prompt, chosen and rejected completion of a conversational pair."""

    def count(messages: list[dict], **more: bool) -> int:
        return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **more))

    prompt = count(row["prompt"], add_generation_prompt=True)
    chosen, rejected = (count(row["prompt"] + row[side]) - prompt for side in ("chosen", "rejected"))
    return prompt, chosen, rejected


def select(counted: list[Row], rows: int, longest: bool) -> list[Row]:
    """`rows` of the counts in random order; with `longest`, those of the rows with the most tokens."""
    order = random.Random(0).sample(counted, len(counted))
    if longest:
        bound = sorted(map(sum, counted), reverse=True)[:rows][-1]
        order = [row for row in order if sum(row) >= bound]
    return order[:rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=768)
    parser.add_argument("--longest", action="store_true")
    words = parser.parse_args()
    dataset = data.load(words.data).dataset
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(folder, dataset)
    chosen = select([lengths(row, tokenizer) for row in dataset], words.rows, words.longest)
    which = "longest" if words.longest else "random"
    about = {
        "data": Path(words.data).name,
        "rows": f"{len(chosen)} {which} ones of {len(dataset)}",
        "tokenizer": f"byte-pair encoding of {VOCABULARY} tokens trained on the data",
        "means": [round(sum(column) / len(chosen), 1) for column in zip(*chosen, strict=True)],
    }
    rows = ",\n".join(f"    {list(row)}" for row in chosen)
    text = json.dumps({"about": about, "lengths": "ROWS"}, indent=2).replace('"ROWS"', f"[\n{rows}\n  ]")
    path = FOLDER / f"{words.name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path}: {about['means']} tokens on average for prompt, chosen and rejected")


if __name__ == "__main__":
    main()
