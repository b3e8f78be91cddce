"""Train one of TRL's trainers and ours on the same completions, and compare what they compute.

TRL runs each optimizer step as one micro-batch of 8 completions, ours as two of 4. TRL's normalisation is then that of the
step too. Three plain SGD steps: with two epochs per rollout, the second one learns from stale completions.
"""

import random
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from tests.conftest import WORDS
from tests.trainers.helpers import COMMON, Recorder, lora, randomise_lora_b, relative_difference, weights
from tests.trainers.ppo.helpers import PROMPTS, count_the

LONGEST = 6
END, FIRST_WORD = 3, 104  # of the tiny model's tokenizer
SAME = ("loss", "entropy", "num_tokens", "reward", "reward_std", "frac_reward_zero_std")
OF_COMPLETIONS = tuple(f"completions/{name}" for name in ("mean_length", "clipped_ratio", "mean_terminated_length"))


def starting_with_a_letter(completions: list[str], **kwargs: Any) -> list[float | None]:
    """Another reward; it does not apply to a completion of one word."""
    return [None if len(text.split()) < 2 else float(text.split()[0] > "i") for text in completions]


def nothing_for_some(completions: list[str], **kwargs: Any) -> list[float | None]:
    """A reward that does not apply to some completions."""
    return [None if text.count("e") == 1 else float(text.count("e")) for text in completions]


class Completions:
    """Token ids by prompt and number of the call: the same for every trainer that samples the same prompts in the same order."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts: list[list[int]]) -> list[list[int]]:
        self.calls += 1
        return [self._one(f"{self.calls} {i} {ids}") for i, ids in enumerate(prompts)]

    def _one(self, key: str) -> list[int]:
        rng = random.Random(key)
        ids = [rng.randrange(FIRST_WORD, FIRST_WORD + len(WORDS)) for _ in range(rng.randint(1, LONGEST))]
        if len(ids) == LONGEST:
            return ids if rng.random() < 0.5 else [*ids[:-1], END]
        return [*ids, END]


def build(cls: type, config: Any, model: str, rewards: Any, *, returns_logps: bool) -> Any:
    """A trainer on the tiny model with a LoRA whose B is not zero, which "samples" `Completions`."""
    trainer = cls(
        model=model,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        peft_config=lora(),
    )
    randomise_lora_b(trainer.model)
    sample = Completions()
    trainer._generate_single_turn = lambda ids, *args, **kwargs: (sample(ids), None) if returns_logps else sample(ids)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    return trainer


def settings(folder: Any, **changes: Any) -> dict[str, Any]:
    """Eight completions per step, four of each prompt, and a clipping range that they leave."""
    return {
        **COMMON,
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_generations": 4,
        "num_iterations": 2,
        "max_completion_length": LONGEST,
        "epsilon": 0.02,
        "learning_rate": 0.1,
        **changes,
    }


def both(theirs: tuple, ours: tuple, model: str, folder: Any, given: dict, rewards: Any = count_the) -> tuple:
    """TRL's trainer and ours, trained.

    Args:
        theirs, ours: Classes of trainer and configuration.
        given: Settings of both.
        rewards: Reward functions of both.
    """
    is_grpo = "loss_type" in theirs[1].__dataclass_fields__
    trl = build(theirs[0], theirs[1](**settings(folder / "trl", **given)), model, rewards, returns_logps=is_grpo)
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    mine = build(
        ours[0], ours[1](**settings(folder / "ours", **{**given, **cut})), model, rewards, returns_logps=False
    )
    trl.train()
    mine.train()
    return trl, mine


def check_same(trl: Any, mine: Any, *, but: tuple[str, ...] = ()) -> None:
    """Gradients, weights and metrics of three steps agree, except the metrics named in `but`."""
    assert len(trl.recorder.gradients) == len(mine.recorder.gradients) == 3
    for step in range(3):
        found, expected = mine.recorder.gradients[step], trl.recorder.gradients[step]
        assert relative_difference(found, expected) < 1e-5, step
    assert relative_difference(weights(mine), weights(trl)) < 1e-5
    for step, log in enumerate(trl.recorder.logs):
        for name in (*SAME, *OF_COMPLETIONS):
            if name in but or name not in log:
                continue
            # Losses are differences of numbers of the size of the advantages, in VESPO times weights up to e³; float32 is good to 1e-7.
            assert mine.recorder.logs[step][name] == pytest.approx(log[name], rel=1e-5, abs=5e-6), (step, name)
