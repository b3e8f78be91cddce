"""List the modules of a model, look for dropout, and switch their mode, without walking through its tree each time.

A walk through a model of 32 layers takes several milliseconds, and `eval` with `train` takes four of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

_KEPT_AS = "_trl_ext_modules"
# Methods that set the flag `training` of a module and pass the call on to its children.
_TRAIN, _EVAL = {nn.Module.train, PreTrainedModel.train}, {nn.Module.eval, PreTrainedModel.eval}


@dataclass
class Modules:
    """All modules of a model, and what each held when the list was made.

    Attributes:
        every: In the order of `nn.Module.modules`.
        children: The dictionary of children of each module, and what it held.
        attributes: The dictionary of attributes of each module that `training` is set in.
        pretrained: Those of transformers' class, which change their kernels in `train` if `use_kernels` is set.
        own_way: Those with a `train` or `eval` of their own, such as DoRA's, which clears a cache.
        known: What was found out about these modules, for as long as they are the same.
    """

    every: list[nn.Module]
    children: list[tuple[dict[str, nn.Module | None], list[nn.Module | None]]]
    attributes: list[dict[str, Any]]
    pretrained: list[PreTrainedModel]
    own_way: list[nn.Module]
    known: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> "Modules":
        every = list(model.modules())
        own_way = [module for module in every if _has_own_way(module)]
        return cls(
            every,
            [(module._modules, list(module._modules.values())) for module in every],
            [vars(module) for module in every if "training" in vars(module)],
            [module for module in every if isinstance(module, PreTrainedModel)],
            own_way,
        )

    @property
    def are_current(self) -> bool:
        """Whether the tree is unchanged: every module holds the same children."""
        return all(list(found.values()) == held for found, held in self.children)


def modules_of(model: nn.Module) -> Modules:
    """The modules of `model`: the list that it keeps, or a new one if a module was added, replaced or removed since."""
    kept = vars(model).get(_KEPT_AS)
    if kept is None or not kept.are_current:
        # Kept by the model itself, so that it lives as long as the model.
        kept = vars(model)[_KEPT_AS] = Modules.of(model)
    return kept


def _has_own_way(module: nn.Module) -> bool:
    cls = type(module)
    return cls.train not in _TRAIN or cls.eval not in _EVAL or "training" not in vars(module)


def has_dropout(model: nn.Module) -> bool:
    """Whether a layer of a model drops values in training mode."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules_of(model).every)


def train(model: nn.Module) -> None:
    """Switch a model to training mode, as its own `train` does."""
    modules = modules_of(model)
    if modules.own_way or any(module.use_kernels for module in modules.pretrained):
        model.train()
        return
    for attributes in modules.attributes:
        attributes["training"] = True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode. Each module returns to the mode it had."""
    modules = modules_of(model)
    own_way = [*modules.own_way, *(module for module in modules.pretrained if module.use_kernels)]
    own_way = [module for module in own_way if module.training]
    in_training = [attributes for attributes in modules.attributes if attributes["training"]]
    try:
        for module in own_way:
            module.eval()
        for attributes in in_training:
            attributes["training"] = False
        yield
    finally:
        for module in own_way:
            module.train()
        for attributes in in_training:
            attributes["training"] = True
