"""A loss that is lost on the second process alone, left out once and then fatal; run by `test_finite.py` under torchrun.

Usage: two_processes_fault.py MODEL OUTPUT
"""

import math
import sys

import torch
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, weights
from trl_ext.support.errors import UserError
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


def lose_twice(trainer) -> None:
    """Have the losses be NaN on the second process, in steps 2 and 4."""

    def evaluate(original, tensors):
        output = original(tensors)
        lost = trainer.args.process_index == 1 and trainer.state.global_step in (1, 3)
        return output._replace(losses=output.losses * math.nan) if lost else output

    intercept(trainer.row_objective, "evaluate", evaluate)


if __name__ == "__main__":
    _, model, output = sys.argv
    settings = {"per_device_train_batch_size": 4, "max_steps": 6, "optim": "adamw_torch", "max_grad_norm": 1.0}
    config = PairedPreferenceConfig(**arguments(output, **settings), skip_nonfinite_steps=1, reference_cache=False)
    trainer = build(PairedPreferenceTrainer, config, model, examples=pairs(48))
    lose_twice(trainer)
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
