"""Checkpoint the first layers of a model, and change their number from one forward pass to the next."""

from typing import Any

from torch import nn
from transformers import TrainerCallback

from trl_ext.trainers.common import activation_memory


class CheckpointedLayers:
    """The first layers of a model keep only their input, and are computed again in the backward pass.

    transformers' method that turns checkpointing on walks through the model and adds another hook to its embeddings with
    each call. It is called once, before the first layer is checkpointed. After that only flags are set.

    Args:
        model: The `transformers` model that contains the layers.
        layers: In the order they run.
        kwargs: For `torch.utils.checkpoint.checkpoint`; non-reentrant by default.

    Attributes:
        count: Number of layers that are checkpointed; `None` before the first choice.
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module], **kwargs: Any) -> None:
        self.model = model
        self.layers = layers
        self.count: int | None = None
        self._kwargs = {"use_reentrant": False, **kwargs}
        self._is_enabled = False
        known = set(layers)
        self._others = [m for m in model.modules() if hasattr(m, "gradient_checkpointing") and m not in known]

    def first(self, count: int) -> None:
        """Checkpoint the first `count` layers and no other."""
        if count == self.count:
            return
        if count and not self._is_enabled:
            self._enable()
        for module in self._others:  # the models around the layers
            module.gradient_checkpointing = count > 0
        for number, layer in enumerate(self.layers):
            layer.gradient_checkpointing = number < count
        self.count = count

    def _enable(self) -> None:
        if hasattr(self.model, "activation_checkpointing_enable"):
            self.model.activation_checkpointing_enable(self._kwargs)
        else:  # before transformers 5.23
            self.model.gradient_checkpointing_enable(self._kwargs)
        self._is_enabled = True


class NoneAtFirst(TrainerCallback):
    """Checkpoints no layer as training begins, for a trainer that samples before it chooses the layers of a row.

    Before release 5.23, transformers takes `gradient_checkpointing: auto` for true there.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        if args.gradient_checkpointing == "auto":
            for layer in activation_memory.layers_of(model):
                layer.gradient_checkpointing = False
