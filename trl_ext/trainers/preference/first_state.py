"""Compute running values of a loss from the training set, before the first step."""

from typing import Any

from datasets import Dataset

from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.trainers.preference.loss_state import exact, flat, gathered, joined

CHUNK = 256
"""Examples that are scored at once."""


def start_from_data(trainer: Any) -> None:
    """Score the training set under the policy that training starts from, and give the result to the loss.

    It costs one forward pass over the training set, which its processes share.

    Raises:
        UserError: The training set is streamed.
    """
    data, loss, accelerator = trainer.train_dataset, trainer.loss, trainer.accelerator
    if not isinstance(data, Dataset):
        raise UserError(
            f"The loss {loss.name} reads a property of the whole training set, which is streamed. Load its rows instead of "
            "streaming them, or choose another loss."
        )
    trainer.runtime.say(f"{loss.name}: scoring {count(len(data), 'training examples')} once")
    own = list(range(accelerator.process_index, len(data), accelerator.num_processes))
    chunks = [own[i : i + CHUNK] for i in range(0, len(own), CHUNK)]
    found = [trainer.evaluation.tensors([data[i] for i in chunk]) for chunk in chunks]
    state = trainer.row_objective.state
    state.start(gathered([joined([exact(chunk, loss.inputs) for chunk in found])], accelerator))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in flat(state.values).items())
    trainer.runtime.say(f"{loss.name}: from the training set, {shown}")
