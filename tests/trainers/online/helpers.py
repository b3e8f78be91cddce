"""Building online trainers on the tiny model of the tests, and the pairs they sampled as examples of given pairs."""

from typing import Any

import torch

from tests.trainers.ppo import helpers
from trl_ext import OnlinePreferenceConfig, OnlinePreferenceTrainer


def few_levels(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward with ties: whether a completion has an odd number of words."""
    return [float(len(text.split()) % 2) for text in completions]


def config(output_dir: Any, **changes: Any) -> OnlinePreferenceConfig:
    """Eight pairs of completions of at most six tokens per step in two micro-batches, SGD, everything logged."""
    own = {"output_dir": str(output_dir), "per_device_train_batch_size": 8, "max_steps": 1, "logging_first_step": True}
    return OnlinePreferenceConfig(**{**helpers.ROLLOUT, **own, **changes})


def build(model: Any, args: OnlinePreferenceConfig, **options: Any) -> OnlinePreferenceTrainer:
    return helpers.build(model, args, **{"cls": OnlinePreferenceTrainer, **options})


def trained(model: Any, output_dir: Any, options: dict | None = None, **changes: Any) -> OnlinePreferenceTrainer:
    trainer = build(model, config(output_dir, **changes), **(options or {}))
    trainer.train()
    return trainer


def pairs(trainer: OnlinePreferenceTrainer) -> list[dict[str, list[int]]]:
    """The last rollout's pairs with a preference, as the examples of a trainer of given pairs."""
    examples = []
    for batch in trainer._buffered_inputs:
        for i in range(len(batch["weight"])):
            if batch["weight"][i]:
                prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
                answers = [
                    ids[mask.bool()].tolist()
                    for ids, mask in zip(batch["completion_ids"][i], batch["completion_mask"][i], strict=True)
                ]
                examples.append({"prompt_ids": prompt.tolist(), "chosen_ids": answers[0], "rejected_ids": answers[1]})
    return examples


def plain_logps(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log π of a completion, summed, by transformers' forward pass of this sequence alone."""
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logits.gather(1, torch.tensor(completion).unsqueeze(1)).sum()
