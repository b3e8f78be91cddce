"""Building PPO trainers on the tiny model of the tests."""

from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests.conftest import WORDS
from tests.trainers.helpers import COMMON, Recorder, lora, randomise_lora_b
from trl_ext import PPOConfig, PPOTrainer

ROLLOUT = {**COMMON, "gradient_accumulation_steps": 2, "max_completion_length": 6}
PROMPTS = [" ".join(WORDS[i : i + 2 + i % 4]) for i in range(24)]


def count_the(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that varies with every completion: its number of letters e, less a little per word."""
    return [text.count("e") - 0.1 * len(text.split()) for text in completions]


def config(output_dir: Any, **changes: Any) -> PPOConfig:
    """Eight completions of at most six tokens per step, SGD, everything logged."""
    return PPOConfig(**{**ROLLOUT, "output_dir": str(output_dir), "per_device_train_batch_size": 4, **changes})


def build(model: Any, args: PPOConfig, *, cls: type = PPOTrainer, randomise: bool = True, **kwargs: Any) -> Any:
    """A trainer whose policy differs from its reference and whose critic differs from zero.

    At B = 0 policy and reference agree, and with a head of zeros the critic's adapter has no gradient.
    """
    path = kwargs.pop("path", model)
    given = {"reward_funcs": count_the, "peft_config": lora(), **kwargs}
    trainer = cls(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=AutoTokenizer.from_pretrained(path, padding_side="left"),
        **given,
    )
    if randomise:
        randomise_lora_b(trainer.model)
    if randomise and isinstance(trainer, PPOTrainer):
        generator = torch.Generator().manual_seed(11)
        for name, parameter in sorted(trainer.model.named_parameters()):
            if (".critic." in name and "lora_B" in name) or name == "value_head.weight":
                parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    return trainer


def trained(
    model: Any, output_dir: Any, steps: int = 1, trainer_options: dict | None = None, **changes: Any
) -> PPOTrainer:
    trainer = build(model, config(output_dir, max_steps=steps, **changes), **(trainer_options or {}))
    trainer.train()
    return trainer


def rollout(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    """The completions of the last rollout, the micro-batches joined."""
    batches = trainer._buffered_inputs
    return {
        name: torch.cat([batch[name] for batch in batches]) if value.ndim else value
        for name, value in batches[0].items()
    }
