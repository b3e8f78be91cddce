"""Build a model of a real shape with random weights in 4 bits, with transformers' own loader.

The loader gets a checkpoint whose tensors are created when they are read: each linear weight is drawn in bfloat16,
quantised by bitsandbytes and dropped before the next one. The model initialises everything else itself (embeddings, norms,
buffers such as rotary frequencies). The result is the same as a loaded 4-bit model, and the 16-bit model never exists.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from trl_ext.batching import attention
from trl_ext.build.shared_base import SharedBase

STANDARD_DEVIATION = 0.02


class Drawn:
    """A checkpoint tensor that is drawn when it is read, with the same values each time."""

    def __init__(self, name: str, shape: torch.Size, device: torch.device) -> None:
        self.name, self.shape, self.device = name, shape, device

    def __getitem__(self, _: Any) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(self.name.encode()))
        drawn = torch.empty(self.shape, dtype=torch.bfloat16, device=self.device)
        return drawn.normal_(0, STANDARD_DEVIATION, generator=generator)


def checkpoint(model: nn.Module, device: torch.device) -> dict[str, Drawn]:
    """The linear weights of a model, without those tied to its embeddings."""
    tied = id(model.get_input_embeddings().weight)
    linear = {name: module.weight for name, module in model.named_modules() if type(module) is nn.Linear}
    return {f"{n}.weight": Drawn(f"{n}.weight", w.shape, device) for n, w in linear.items() if id(w) != tied}


def architecture(config: Any, is_classifier: bool) -> Any:
    """The model class of the configuration, with a language model's head or a reward model's head."""
    if is_classifier:
        return AutoModelForSequenceClassification._model_mapping[type(config)]
    named = getattr(transformers, (config.architectures or [""])[0], None)
    return named or AutoModelForCausalLM._model_mapping[type(config)]


def build(folder: str, device: torch.device, *, is_classifier: bool = False, **init: Any) -> Any:
    """The random model of the config.json in a folder.

    Args:
        folder: Folder of the configuration; it becomes the model's name.
        device: Device of the model.
        is_classifier: Whether the model has a scalar head instead of the language model's head.
        init: Arguments for `from_pretrained`: dtype, attention implementation, quantisation.
    """
    config = AutoConfig.from_pretrained(folder, **({"num_labels": 1} if is_classifier else {}))
    cls = architecture(config, is_classifier)
    with torch.device("meta"):
        weights = checkpoint(cls._from_config(config), device)
    init["dtype"] = getattr(torch, init["dtype"]) if isinstance(init.get("dtype"), str) else init.get("dtype")
    init.pop("revision", None), init.pop("trust_remote_code", None)
    where = {"": "cpu" if device.type == "cpu" else device.index or 0}
    model = cls.from_pretrained(None, config=config, state_dict=weights, device_map=where, **init)
    model.config.name_or_path = model.name_or_path = folder
    return model


class RandomBase(SharedBase):
    """A shared base with random instead of loaded models.

    Attributes:
        is_classifier: Whether the next trainer needs a scalar head.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.is_classifier = device, False

    def _load(self, path: str, **init: Any) -> Any:
        return build(path, self.device, is_classifier=self.is_classifier, **init)

    def take_back(self, trainer: Any) -> None:
        super().take_back(trainer)
        self.model.get_input_embeddings()._forward_hooks.clear()  # TRL's hook that makes embeddings require gradients
        self.model.set_attn_implementation(attention.ordinary(self.model.config._attn_implementation))
