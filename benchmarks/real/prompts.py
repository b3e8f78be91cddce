"""Write everyday questions and requests from templates and topics, split by topic into training and held-out prompts.

    python -m benchmarks.real.prompts FOLDER

A topic is only in one of the two, so that success on held-out prompts is success on topics never trained on. The order is the
same every time: it is shuffled by a seed.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Literal

TEMPLATES = (
    "What is {}?",
    "Tell me about {}.",
    "Why do people like {}?",
    "How does one get started with {}?",
    "What should a beginner know about {}?",
    "Explain {} to a child.",
    "What are common mistakes with {}?",
    "Give me advice about {}.",
    "What is difficult about {}?",
    "How much time does {} take?",
    "What do I need for {}?",
    "Is {} expensive?",
    "What are the benefits of {}?",
    "How did {} begin?",
)

REQUEST = "Answer in one sentence."
"""The end of every prompt."""

TRAINED = (
    "gardening", "baking bread", "learning to swim", "keeping a dog", "playing the piano", "hiking in the mountains",
    "painting with watercolours", "riding a bicycle to work", "growing tomatoes", "playing chess", "making coffee", "knitting",
    "photography", "camping", "running a marathon", "keeping bees", "woodworking", "sailing", "learning French", "yoga",
    "fishing", "collecting stamps", "brewing tea", "building a birdhouse", "skiing", "cooking pasta", "writing a diary",
    "stargazing", "travelling by train", "repairing clothes",
)  # fmt: skip

HELD_OUT = (
    "playing the guitar", "keeping a cat", "making cheese", "rock climbing", "learning Spanish", "growing roses", "drawing portraits",
    "dancing", "horse riding", "making pottery",
)  # fmt: skip

Part = Literal["train", "held_out"]


def prompts(part: Part) -> list[str]:
    """Every template with every topic of a part, shuffled."""
    topics = TRAINED if part == "train" else HELD_OUT
    written = [f"{template.format(topic)} {REQUEST}" for template in TEMPLATES for topic in topics]
    random.Random(0).shuffle(written)
    return written


def rows(part: Part) -> list[dict]:
    """The prompts as conversations, for datasets of prompts."""
    return [{"prompt": [{"role": "user", "content": text}]} for text in prompts(part)]


def main() -> None:
    """Write `train.jsonl` and `held_out.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "held_out"):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(part)]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
