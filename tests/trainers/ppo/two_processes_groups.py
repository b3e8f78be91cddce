"""A step of each advantage without a critic on two processes that share each prompt; run under torchrun by a test.

Usage: two_processes_groups.py MODEL OUTPUT
"""

import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.trainers.ppo.papers import COMPLETIONS, one_step
from trl_ext.rl import advantages

if __name__ == "__main__":
    _, model, output = sys.argv
    found = {}
    for name in advantages.available():
        if advantages.describe(name).needs_critic:
            continue
        # Two micro-batches of three completions on each process: three prompts, of which the second is on both.
        trainer = one_step(model, f"{output}/{name}", name, per_device_train_batch_size=3)
        assert trainer.args.world_size == 2
        found[name] = {
            "weights": trainer.before,
            "gradients": trainer.recorder.gradients[0],
            "batches": trainer._buffered_inputs,
            "aggregation": trainer.args.loss_aggregation,
            "log": trainer.recorder.logs[0],
        }
    assert trainer.num_generations in (1, COMPLETIONS)
    torch.save(found, f"{output}/groups{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
