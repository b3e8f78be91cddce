"""Select short pairs of real preference data, and split them into training and held-out pairs.

    python -m benchmarks.real.preferences DATA FOLDER

DATA is any preference file or Hub name that `trl-ext run` reads, for example Anthropic's HH harmless-base. A pair is short if
neither of its conversations has more than `LONGEST` tokens, so that 100 steps fit into minutes on a CPU. Pairs with an empty
completion are left out. A prompt is never in both parts.
"""

import argparse
import json
import random
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer

from benchmarks.real import model
from trl_ext import data

LONGEST = 128
"""Tokens of the longer of a pair's two conversations, the template's own tokens included."""
HELD_OUT = 160
TRAINED = 544


def short_pairs(rows: Dataset, longest: int = LONGEST) -> list[dict]:
    """The rows whose conversations have at most `longest` tokens and whose completions are not empty."""
    tokenizer = AutoTokenizer.from_pretrained(model.folder())

    def is_short(row: dict) -> bool:
        conversations = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
        if not all(each[-1]["content"].strip() for each in conversations):
            return False
        ids = tokenizer.apply_chat_template(conversations, return_dict=False)
        return max(map(len, ids)) <= longest

    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows if is_short(row)]


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Training and held-out pairs. Pairs of one prompt stay together."""
    by_prompt: dict[str, list[dict]] = {}
    for row in rows:
        by_prompt.setdefault(json.dumps(row["prompt"]), []).append(row)
    groups = list(by_prompt.values())
    random.Random(0).shuffle(groups)
    held_out: list[dict] = []
    while len(held_out) < HELD_OUT:
        held_out += groups.pop()
    return [row for group in groups for row in group][:TRAINED], held_out


def write(source: str, folder: Path) -> None:
    """Write `hh-train.jsonl` and `hh-held-out.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("hh-train", "hh-held-out"), split(short_pairs(data.load(source).dataset)), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(rows)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    words = parser.parse_args()
    write(words.data, words.folder)


if __name__ == "__main__":
    main()
