"""A loss that is lost on the second process alone, left out once and then fatal; run by `test_finite.py` under torchrun.

Usage: two_processes_fault.py MODEL OUTPUT
"""

import math
import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, weights
from trl_ext.support.errors import UserError
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


class LosesTwice(PairedPreferenceTrainer):
    """On the second process, in steps 2 and 4."""

    def _evaluate_loss(self, tensors):
        output = super()._evaluate_loss(tensors)
        lost = self.args.process_index == 1 and self.state.global_step in (1, 3)
        return output._replace(losses=output.losses * math.nan) if lost else output


if __name__ == "__main__":
    _, model, output = sys.argv
    settings = {"per_device_train_batch_size": 4, "max_steps": 6, "optim": "adamw_torch", "max_grad_norm": 1.0}
    config = PairedPreferenceConfig(**arguments(output, **settings), skip_nonfinite_steps=1, reference_cache=False)
    trainer = build(LosesTwice, config, model, examples=pairs(48))
    said = ""
    try:
        trainer.train()
    except UserError as error:
        said = str(error)
    found = {
        "said": said,
        "weights": weights(trainer),
        "logs": trainer.recorder.logs,
        "step": trainer.state.global_step,
    }
    torch.save(found, f"{output}/rank{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
