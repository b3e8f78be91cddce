"""One optimizer step on two processes; run by `test_online_two_processes.py` under torchrun.

Usage: two_processes.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.trainers.online.helpers import build, config, few_levels, pairs

if __name__ == "__main__":
    _, model, output = sys.argv
    trainer = build(model, config(output, beta=0.5), reward_funcs=few_levels)
    assert trainer.args.world_size == 2
    trainer.train()
    found = {"pairs": pairs(trainer), "gradients": trainer.recorder.gradients[0], "logs": trainer.recorder.logs}
    torch.save(found, f"{output}/rank{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
