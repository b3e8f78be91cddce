"""A run on two processes, and the same run resumed from the middle of a rollout; run under torchrun by a test.

Usage: two_processes_resumed.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.trainers.ppo.helpers import build, config
from tests.trainers.ppo.separate import WeightsBefore, is_trained

SETTINGS = {
    "per_device_train_batch_size": 2,
    "steps_per_generation": 4,  # two optimizer steps, and twice over the same rollout: four steps each
    "num_iterations": 2,
    "max_steps": 6,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "kl_estimator": "k2",
    "kl_placement": "loss",
    "kl_controller": "adaptive",
    "kl_target": 0.05,
    "kl_horizon": 100,
    "save_strategy": "steps",
    "save_steps": 1,
}


def trained(model: str, folder: str, checkpoint: str | None = None) -> dict:
    trainer = build(model, config(folder, **SETTINGS))
    assert trainer.args.world_size == 2
    before = WeightsBefore()
    trainer.add_callback(before)
    trainer.train(resume_from_checkpoint=checkpoint)
    return {
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters() if is_trained(name)},
        "weights before the last step": before.steps[-1],
        "logs": trainer.recorder.logs,
        "kl_coef": trainer.kl_controller.value,
        "last batches": trainer._buffered_inputs[2:],
    }


if __name__ == "__main__":
    _, model, output = sys.argv
    found = {"whole": trained(model, f"{output}/whole")}
    for step in (1, 3, 4):
        found[step] = trained(model, f"{output}/from-{step}", f"{output}/whole/checkpoint-{step}")
    torch.save(found, f"{output}/resumed{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
