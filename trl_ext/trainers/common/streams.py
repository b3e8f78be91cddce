"""Evaluate streamed datasets like others: batches are not sent between processes, and each example counts once."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from datasets import IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.processes import without_copies


def any_streamed(*datasets: Any) -> bool:
    """Whether any of these is streamed; a dictionary of datasets counts as its members, `None` as none."""
    members = [member for given in datasets for member in (given.values() if isinstance(given, dict) else [given])]
    return any(isinstance(member, IterableDataset) for member in members)


class Counted(torch.utils.data.IterableDataset):
    """A stream of which every process gets the same number of batches, the last one filled with copies.

    accelerate would give each process other files if there are enough of them, and processes with more rows would wait for
    the others forever. It fills the last batch, but does not know the length of a stream, and so counts the copies.

    Args:
        stream: The examples.
        batch_size: Examples of a batch, over all processes.
    """

    def __init__(self, stream: IterableDataset, batch_size: int) -> None:
        self.stream = stream
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict]:
        count = 0
        for example in self.stream:
            count += 1
            yield example
        # accelerate reads one batch ahead, so this precedes the use of the last one.
        if (loader := GradientState().active_dataloader) is not None:
            loader.remainder = count % self.batch_size


def read_locally(accelerator: Accelerator, dataset: Any, batch_size: int, *, is_training: bool = False) -> Any:
    """Let every process read a streamed dataset itself. Returns the dataset for the dataloader.

    By default accelerate reads a stream in the first process and joins batches for the others, which fails where the
    sequences of two batches differ in length. TRL changes this for streamed training data only.

    Args:
        accelerator: The trainer's.
        dataset: Streamed or not.
        batch_size: Examples of a batch on one process.
        is_training: It is training data, which is read as in TRL.
    """
    if not isinstance(dataset, IterableDataset):
        return dataset
    accelerator.dataloader_config.dispatch_batches = False
    processes = accelerator.num_processes
    return dataset if is_training or processes == 1 else Counted(dataset, batch_size * processes)


def exact(
    output: EvalLoopOutput,
    dataloader: DataLoader,
    loss: float | None,
    count: int,
    metric_key_prefix: str = "eval",
    **_: Any,
) -> EvalLoopOutput:
    """The output of an evaluation, in which the short last batch of a stream is weighted by its number of examples.

    transformers does not know the length of a stream and counts the last batch like a whole one.

    Args:
        output: Of transformers' `evaluation_loop`.
        dataloader: The output is returned as it is if its dataset is not streamed.
        loss: Mean over the examples; `None` if none was computed.
        count: Number of examples.
        metric_key_prefix: Of the names of the metrics.
    """
    if loss is None or not isinstance(dataloader.dataset, torch.utils.data.IterableDataset):
        return output
    return output._replace(metrics=output.metrics | {f"{metric_key_prefix}_loss": loss}, num_samples=count)


class StreamedEvaluation:
    """Mixin before a TRL trainer that runs whole micro-batches.

    Overrides `_get_dataloader`, `evaluation_loop` and `prediction_step` of transformers' `Trainer`.
    """

    _sequences_per_example = 1  # rows of a batch
    _evaluated = MeanMetrics()  # of the evaluation that is running: the loss, weighted by examples

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any
    ) -> DataLoader:
        read = read_locally(self.accelerator, dataset, batch_size, is_training=kwargs.get("is_training", False))
        return super()._get_dataloader(read, description, batch_size, *args, **kwargs)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._evaluated = MeanMetrics()
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        sums = self._evaluated.reduce(self.accelerator)
        return exact(output, dataloader, sums.means().get("loss"), sums.count("loss"), **kwargs)

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> tuple:
        rows = find_batch_size(inputs)
        outcome = super().prediction_step(model, inputs, *args, **kwargs)
        if outcome[0] is not None and rows:
            count = without_copies(self.accelerator, rows // self._sequences_per_example)
            self._evaluated.add("loss", outcome[0].detach() * count, count)
        return outcome
