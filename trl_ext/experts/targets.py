"""Choose the linear layers of a mixture of experts that get a LoRA, and the parameters that a name means."""

from __future__ import annotations

from torch import nn

from trl_ext.experts.storage import are_experts, routers

OF_AN_EXPERT = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that layers of experts and routers have in checkpoints. PEFT takes them for the fused weights of experts."""


def has_experts(model: nn.Module) -> bool:
    """Whether a model has experts that are fused into parameters."""
    return any(are_experts(module) for module in model.modules())


def outside_experts(model: nn.Module) -> list[str]:
    """Names of the linear layers outside experts, shared ones included, and routers; without the head. They are those of attention.

    PEFT's `all-linear` also selects routers and experts in some families and not in others. A LoRA of rank 16 on the experts of
    Qwen3-30B-A3B has 0.6 billion weights.
    """
    choosing, head = set(routers(model)), model.get_output_embeddings()
    found = {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and path not in choosing
    }
    return sorted(found - OF_AN_EXPERT)


def unknown_parameters(model: nn.Module, targets: list[str]) -> list[str]:
    """Those of PEFT's `target_parameters` that no parameter's name ends with."""
    names = [f".{name}" for name, _ in model.named_parameters()]
    return [target for target in targets if not any(name.endswith(f".{target}") for name in names)]


def ends_of_parameters(model: nn.Module) -> list[str]:
    """What a target parameter may be named: the last two parts of the names of matrices, those of experts first."""
    ends: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim in (2, 3):
            ends.setdefault(".".join(name.split(".")[-2:]), parameter.ndim)
    return sorted(ends, key=lambda end: (-ends[end], end))
