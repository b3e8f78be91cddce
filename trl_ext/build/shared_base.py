"""Lend one loaded base model to several trainers, one after the other."""

from __future__ import annotations

import gc
from typing import Any

import torch

from trl_ext.build import pretrained
from trl_ext.model_files import adapter_types


class SharedBase:
    """A base model that is loaded once, lent to a trainer and taken back without its adapters.

    A trainer changes adapters only, so the base comes back unchanged. The exceptions are adapters whose initialisation moves
    part of the base's weights into them, such as PiSSA: then the base is loaded again for the next loan.

    Attributes:
        model: The base while it is not lent; `None` before the first loan and during one.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self._key: Any = None

    def lend(self, path: str, **init: Any) -> Any:
        """Return the model of a path. It is loaded again if the path or the loading arguments differ from the last loan."""
        key = (path, repr(sorted(init.items(), key=lambda item: item[0])))
        if self.model is None or key != self._key:
            self.model, self._key = None, key
            _free()
            self.model = self._load(path, **init)
        model, self.model = self.model, None
        return model

    def _load(self, path: str, **init: Any) -> Any:
        return pretrained.load(path, **init)

    def take_back(self, trainer: Any) -> None:
        """Remove the adapters from a trainer's model and keep the base. The trainer cannot be used afterwards."""
        accelerator = trainer.accelerator
        model = accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        vars(trainer).clear()  # its parts hold the model too, and callers may keep the trainer
        accelerator.free_memory()
        is_changed = any(adapter_types.moves_the_base(config.to_dict()) for config in model.peft_config.values())
        base = model.unload()
        if is_changed:
            del model, base
            _free()
            return
        base.gradient_checkpointing_disable()
        base.eval()
        self.model = base
        _free()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
