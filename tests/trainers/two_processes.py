"""Trains three losses and saves every step's gradients; run by `test_two_processes.py` under torchrun.

Usage: two_processes.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, nf4
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

LOSSES = {"dpo": True, "aot": True, "kto": False}


def run(model: str, output: str, world: int) -> dict:
    results = {}
    for loss, is_paired in LOSSES.items():
        cls = PairedPreferenceTrainer if is_paired else UnpairedPreferenceTrainer
        config_class = PairedPreferenceConfig if is_paired else UnpairedPreferenceConfig
        config = config_class(
            **arguments(output, per_device_train_batch_size=4 // world, gradient_accumulation_steps=2), loss=loss
        )
        assert config.world_size == world, (config.world_size, world)
        trainer = build(cls, config, model, examples=pairs(24), quantization_config=nf4())
        if world > 1:
            config.row_tokens = [1, 10_000][config.process_index]  # as many rows as examples, and a single one
        trainer.train()
        results[loss] = (trainer.recorder.gradients, trainer.recorder.logs)
    return results


if __name__ == "__main__":
    _, model, output = sys.argv
    found = run(model, output, world=2)
    if torch.distributed.get_rank() == 0:
        torch.save(found, f"{output}/two.pt")
    torch.distributed.destroy_process_group()
