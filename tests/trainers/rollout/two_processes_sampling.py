"""Steps on two processes of which the second has too little memory for merged weights; run under torchrun by a test.

Usage: two_processes_sampling.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.trainers.ppo.helpers import ROLLOUT, build, config
from tests.trainers.ppo.separate import WeightsBefore
from trl_ext import GRPOConfig, GRPOTrainer
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.rollout import sampling_logps
from trl_ext.trainers.rollout.merged_copy import MergedCopy

BETA = 0.1


def out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


FAULTS = {
    "none": (activation_memory, "free", activation_memory.free),
    "free memory": (activation_memory, "free", lambda device: 0),
    "the copy": (MergedCopy, "__init__", out_of_memory),
    "sampling": (sampling_logps, "recorded", out_of_memory),
}
"""What is changed on the second process."""


def summary(trainer):
    return {
        "choice": trainer.sampler.choice,
        "logs": trainer.recorder.logs,
        "gradients": trainer.recorder.gradients[0],
        "batches": trainer._buffered_inputs,
    }


if __name__ == "__main__":
    _, model, output = sys.argv
    found = {}
    for name, (owner, attribute, changed) in FAULTS.items():
        trainer = build(model, config(f"{output}/{name}", max_steps=1, per_device_train_batch_size=2, kl_coef=0.0))
        rank, before = trainer.accelerator.process_index, getattr(owner, attribute)
        if rank == 1:
            setattr(owner, attribute, changed)
        trainer.train()
        setattr(owner, attribute, before)
        found[name] = summary(trainer)
    settings = {**ROLLOUT, "per_device_train_batch_size": 4, "num_generations": 4, "max_steps": 1, "beta": BETA}
    trainer = build(model, GRPOConfig(output_dir=f"{output}/grpo", **settings), cls=GRPOTrainer)
    before = WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    found["grpo"] = summary(trainer) | {"weights": before.steps[0]}
    torch.save(found, f"{output}/sampling{rank}.pt")
    torch.distributed.destroy_process_group()
