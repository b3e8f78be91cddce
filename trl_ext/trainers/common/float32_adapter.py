"""Keep the adapter in float32 through the constructor of a TRL trainer that runs whole micro-batches."""

from typing import Any

import torch

from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import fused_kernels, lora


class Float32Adapter:
    """Mixin before a TRL trainer that casts the adapter of a quantised model to bfloat16; overrides `__init__`."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        weights = lora.snapshot(model)
        super().__init__(model, *args, **kwargs)
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=torch.float32)
        fused_kernels.install(self)
