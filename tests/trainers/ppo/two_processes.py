"""Two optimizer steps on two processes; run by `test_ppo_two_processes.py` under torchrun.

Usage: two_processes.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.trainers.ppo.helpers import build, config
from tests.trainers.ppo.separate import WeightsBefore

if __name__ == "__main__":
    _, model, output = sys.argv
    settings = {"per_device_train_batch_size": 2, "num_iterations": 2, "max_steps": 2, "learning_rate": 0.3}
    args = config(output, kl_controller="adaptive", kl_target=0.05, kl_horizon=100, **settings)
    assert args.world_size == 2
    trainer = build(model, args)
    before = WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    found = {
        "weights": before.steps[1],
        "gradients": trainer.recorder.gradients[1],
        "batches": trainer._buffered_inputs,
        "kl_coef": trainer.kl_controller.value,
        "logs": trainer.recorder.logs,
    }
    torch.save(found, f"{output}/rank{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
