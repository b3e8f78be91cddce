"""Evaluate streamed datasets like others: batches are not sent between processes, and each example counts once."""

from typing import Any

import torch
from accelerate import Accelerator
from datasets import IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from trl_ext.trainers.common.metrics import MeanMetrics


def any_streamed(*datasets: Any) -> bool:
    """Whether any of these is streamed; a dictionary of datasets counts as its members, `None` as none."""
    members = [member for given in datasets for member in (given.values() if isinstance(given, dict) else [given])]
    return any(isinstance(member, IterableDataset) for member in members)


def read_locally(accelerator: Accelerator, dataset: Any) -> None:
    """Let every process read a streamed dataset itself.

    By default accelerate reads a stream in the first process and joins batches for the others, which fails where the
    sequences of two batches differ in length. TRL changes this for streamed training data only.
    """
    if isinstance(dataset, IterableDataset):
        accelerator.dataloader_config.dispatch_batches = False


def exact(
    output: EvalLoopOutput,
    dataloader: DataLoader,
    loss: float | None,
    count: int,
    metric_key_prefix: str = "eval",
    **_: Any,
) -> EvalLoopOutput:
    """The output of an evaluation, in which the short last batch of a stream weighs its examples and no more.

    transformers does not know the length of a stream: it counts the last batch like a whole one.

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

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        read_locally(self.accelerator, dataset)
        return super()._get_dataloader(dataset, *args, **kwargs)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        self._evaluated = MeanMetrics()
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        sums = self._evaluated.reduce(self.accelerator)
        return exact(output, dataloader, sums.means().get("loss"), sums.count("loss"), **kwargs)

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> tuple:
        rows = find_batch_size(inputs)
        outcome = super().prediction_step(model, inputs, *args, **kwargs)
        if outcome[0] is not None and rows:
            count = rows // self._sequences_per_example
            self._evaluated.add("loss", outcome[0].detach() * count, count)
        return outcome
