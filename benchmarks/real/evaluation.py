"""Measure a model: success on held-out prompts, KL to the base, perplexity, and everyday facts.

    python -m benchmarks.real.evaluation OUT.json --pairs HELD_OUT.jsonl [--run DIR] [--of task]

Without a run, the base model is measured, in 4 bits as the recipes load it. All completions are sampled at temperature 1. A
completion is a success if it ended before `LONGEST` tokens and its reward is 1.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real import model, prompts, rewards
from benchmarks.real.pairs import LONGEST
from trl_ext.support import intervals
from trl_ext.support.sampling import Completion, end_ids_of, logps, sample

N_ON_PAIRS = 64
"""Prompts of real preference data that are answered."""
SHOWN = tuple(
    f"{question} {prompts.REQUEST}"
    for question in ("What is making cheese?", "How does one get started with rock climbing?", "Is dancing expensive?")
)
"""Held-out prompts whose most probable answer is recorded."""
SEED = 1

CHECKED = (
    rewards.is_short,
    rewards.ends_with_question,
    rewards.has_three_bullets,
    rewards.avoids_first_person,
    rewards.is_json,
)
"""The first is the task; the others watch for side effects."""

BETWEEN_TEXTS = "<|endoftext|>"
"""The token between texts in pretraining."""

FACTS = Path(__file__).with_name("facts.tsv")
PROSE = Path(__file__).with_name("prose.txt")


class Measured:
    """A policy, and the base it is compared with; both have the same tokenizer."""

    def __init__(self, policy: Any, tokenizer: Any, reference: Any) -> None:
        """`reference` is a context manager that yields the base model, or `None` if the policy is the base."""
        self.policy, self.tokenizer, self.reference = policy, tokenizer, reference

    def on_task(self) -> dict[str, Any]:
        """Success and side effects on the held-out prompts of the task."""
        asked = prompts.prompts("held_out")
        answers = self.sample(asked)
        texts = [each.text for each in answers]
        scores = {each.__name__: each(texts) for each in CHECKED}
        return {
            "n": len(answers),
            "success": share(
                [each.is_ended and score == 1 for each, score in zip(answers, scores["is_short"], strict=True)]
            ),
            "ended": share([each.is_ended for each in answers]),
            "reward": intervals.score(scores["is_short"])._asdict(),
            **{name: share([score == 1 for score in found]) for name, found in scores.items() if name != "is_short"},
            "words": intervals.mean([len(text.split()) for text in texts])._asdict(),
            "tokens": intervals.mean([len(each.ids) for each in answers])._asdict(),
            "kl": self.kl(answers),
            "sampled": [{"prompt": prompt, "text": text} for prompt, text in zip(asked[:8], texts, strict=False)],
            "shown": self.most_probable(SHOWN),
        }

    def on_pairs(self, rows: list[dict]) -> dict[str, Any]:
        """Log-probabilities of real preferences (nats, summed over a completion), and the KL on their prompts."""
        found = {side: self.logps(self.completions(rows, side)) for side in ("chosen", "rejected")}
        return {
            "n": len(rows),
            "logps": found,
            "kl": self.kl(self.sample([row["prompt"] for row in rows[:N_ON_PAIRS]])),
        }

    def perplexity_of_chosen(self, rows: list[dict]) -> dict[str, float]:
        """Per-token perplexity of the chosen completions of real preferences."""
        chosen = self.completions(rows, "chosen")
        return perplexity([-value for value in self.logps(chosen)], [len(each.ids) for each in chosen])

    def perplexity_of_prose(self) -> dict[str, float]:
        """Per-token perplexity of paragraphs, each scored alone after the token between texts."""
        start = [self.tokenizer.convert_tokens_to_ids(BETWEEN_TEXTS)]
        ids = [self.tokenizer(text)["input_ids"] for text in PROSE.read_text(encoding="utf-8").strip().split("\n\n")]
        found = self.logps([Completion(start, each, "", True) for each in ids])
        return perplexity([-value for value in found], list(map(len, ids)))

    def facts(self) -> dict[str, Any]:
        """Share of statements whose right ending is more probable (summed over its tokens) than each of three wrong ones."""
        lines = [line.split("\t") for line in FACTS.read_text(encoding="utf-8").splitlines()]
        options = [
            Completion(self.tokenizer(beginning)["input_ids"], self.tokenizer(f" {ending}")["input_ids"], "", True)
            for beginning, *endings in lines
            for ending in endings
        ]
        right = np.array(self.logps(options)).reshape(len(lines), -1).argmax(1) == 0
        return {"n": len(lines), "right": share(right), "which": np.flatnonzero(right).tolist()}

    def sample(self, asked: list) -> list[Completion]:
        return sample(self.policy, self.tokenizer, asked, seed=SEED, max_new_tokens=LONGEST, batch_size=len(asked))

    def kl(self, answers: list[Completion]) -> dict[str, float] | None:
        """KL(π‖base) in nats per completion, from the policy's own completions; `None` for the base."""
        if self.reference is None:
            return None
        policy = self.logps(answers)
        with self.reference() as base:
            reference = self.logps(answers, base)
        return intervals.mean(np.subtract(policy, reference))._asdict()

    def logps(self, completions: list[Completion], scorer: Any = None) -> list[float]:
        """Summed log-probabilities under the policy or another model. Completions of similar length are batched."""
        order = sorted(range(len(completions)), key=lambda i: len(completions[i].prompt_ids + completions[i].ids))
        values = logps(scorer or self.policy, self.tokenizer, [completions[i] for i in order], batch_size=32)
        found = dict(zip(order, values.tolist(), strict=True))
        return [found[i] for i in range(len(completions))]

    def completions(self, rows: list[dict], side: str) -> list[Completion]:
        """The completions of a side of the pairs, each with its end token."""
        end = self.tokenizer.eos_token_id
        return [
            Completion(
                self.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False),
                [*self.tokenizer(row[side][-1]["content"])["input_ids"], end],
                "",
                True,
            )
            for row in rows
        ]

    def most_probable(self, asked: tuple[str, ...]) -> list[dict[str, str]]:
        """Answers by greedy decoding."""
        from transformers import GenerationConfig

        ends = sorted(end_ids_of(self.policy, self.tokenizer))
        config = GenerationConfig(
            do_sample=False, max_new_tokens=LONGEST, eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id
        )
        found = []
        for prompt in asked:
            turns = [{"role": "user", "content": prompt}]
            inputs = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            output = self.policy.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :]
            is_ended = output[-1].item() in ends
            found.append(
                {
                    "prompt": prompt,
                    "text": self.tokenizer.decode(output, skip_special_tokens=True).strip(),
                    "ended": is_ended,
                }
            )
        return found


def share(successes: Any) -> dict[str, float]:
    """A share with Wilson's interval."""
    return intervals.share(int(np.sum(successes)), len(successes))._asdict()


def perplexity(nats: list[float], lens: list[int]) -> dict[str, float]:
    """exp of the nats per token of all texts together. The interval is that of the ratio, with texts as the units."""
    nats, lens = np.array(nats, float), np.array(lens, float)
    ratio = nats.sum() / lens.sum()
    error = math.sqrt(((nats - ratio * lens) ** 2).sum() * len(nats) / (len(nats) - 1)) / lens.sum()
    return {
        "value": math.exp(ratio),
        "low": math.exp(ratio - intervals.Z * error),
        "high": math.exp(ratio + intervals.Z * error),
        "n": len(nats),
        "tokens": int(lens.sum()),
    }


def load(run: Path | None) -> Measured:
    """The model of a run, or the base."""
    from trl_ext.support import quiet

    quiet.hide_library_messages()
    quiet.hide_loading_bars()
    if run is None:
        from trl_ext.demo.build import load_in_4bit

        policy, tokenizer = load_in_4bit(model.folder())
        return Measured(policy.eval(), tokenizer, None)
    from trl_ext.runs.load import open_model

    opened = open_model(run, needs_reference=True)
    opened.add_reference()
    return Measured(opened.model, opened.tokenizer, opened.reference)


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path, required=True, help="held-out pairs, from benchmarks.real.preferences")
    parser.add_argument("--run", type=Path, help="directory of a run (default: the base model)")
    parser.add_argument("--of", choices=("task", "pairs"), help="what the run was trained for (default: measure both)")
    words = parser.parse_args()
    rows = [json.loads(line) for line in words.pairs.read_text(encoding="utf-8").splitlines()]
    import torch

    with torch.no_grad():
        measured = load(words.run)
        record = {"task": measured.on_task()} if words.of != "pairs" else {}
        record |= {"pairs": measured.on_pairs(rows)} if words.of != "task" else {}
        record |= {
            "chosen": measured.perplexity_of_chosen(rows),
            "prose": measured.perplexity_of_prose(),
            "facts": measured.facts(),
        }
    words.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
