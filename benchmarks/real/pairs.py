"""Sample answers of the model to the training prompts; keep the best and the worst of each prompt as a pair.

    python -m benchmarks.real.pairs [FILE]

The answers come from the model as the recipes load it, in 4 bits, at temperature 0.7. The reward is `rewards.is_short`. A prompt is
left out if its best answer was cut at `LONGEST` tokens, because a cut answer shows no end to learn, and if all its answers have
one reward.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.real import model, prompts, rewards

ANSWERS, LONGEST, TEMPERATURE = 4, 48, 0.7
"""Answers sampled per prompt, their largest number of tokens, and the temperature."""
AT_ONCE = 140
"""Answers sampled together."""
SEED = 0

FILE = Path(__file__).parent / "data" / "pairs.jsonl"
"""Where the recipes read them."""


class Scored(NamedTuple):
    """An answer, whether it ended before the limit, and its reward."""

    text: str
    is_ended: bool
    reward: float


def choose(answers: list[Scored]) -> tuple[Scored, Scored] | None:
    """The best and the worst answer; `None` if they are equally good or the best was cut."""
    best, worst = (pick(answers, key=lambda each: each.reward) for pick in (max, min))
    return (best, worst) if best.is_ended and best.reward > worst.reward else None


def pair(prompt: str, best: Scored, worst: Scored) -> dict[str, Any]:
    """A row of preference data."""
    turn = {"role": "user", "content": prompt}
    sides = {
        name: [{"role": "assistant", "content": each.text}] for name, each in (("chosen", best), ("rejected", worst))
    }
    return {"prompt": [turn], **sides}


def sample_pairs() -> tuple[list[dict[str, Any]], list[Scored]]:
    """The pairs, and all answers they were chosen from."""
    from trl_ext.demo.build import load_in_4bit
    from trl_ext.support.sampling import sample

    policy, tokenizer = load_in_4bit(model.folder())
    asked = [text for text in prompts.prompts("train") for _ in range(ANSWERS)]
    how = {"seed": SEED, "max_new_tokens": LONGEST, "temperature": TEMPERATURE, "batch_size": AT_ONCE}
    sampled = sample(policy, tokenizer, asked, **how)
    scores = rewards.is_short([each.text for each in sampled])
    found = [Scored(each.text.strip(), each.is_ended, score) for each, score in zip(sampled, scores, strict=True)]
    rows = []
    for i in range(0, len(asked), ANSWERS):
        if chosen := choose(found[i : i + ANSWERS]):
            rows.append(pair(asked[i], *chosen))
    return rows, found


def write(file: Path) -> None:
    """Write the pairs and print how many there are."""
    rows, answers = sample_pairs()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    ended = sum(each.is_ended for each in answers) / len(answers)
    short = sum(each.is_ended and each.reward == 1 for each in answers) / len(answers)
    print(f"{file}: {len(rows)} pairs from {len(answers)} answers, {ended:.1%} of them ended, {short:.1%} short")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    write(parser.parse_args().file)


if __name__ == "__main__":
    main()
