"""Read a model that FSDP2 shards over processes (`torch.distributed.fsdp.fully_shard`).

Every forward and backward pass of a layer gathers its weights from all processes. So all of them have to run the same number
of rows in the same order, and none may repeat a step on its own.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether training shards the model over processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor, gathered if it is sharded; every process has to call it then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor on this process: all of it unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole trained weights by name, on the CPU. Every process has to call it."""
    return {name: whole(p.detach()).cpu() for name, p in model.named_parameters() if p.requires_grad}
