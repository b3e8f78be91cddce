"""Bind losses to their hyperparameters, and sum weighted losses."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_ext.losses._declaration import LossInfo
from trl_ext.losses._mix import MixInfo, describe_mix
from trl_ext.losses._outputs import PairedOutput, UnpairedOutput
from trl_ext.losses._registry import describe

if TYPE_CHECKING:
    from torch import Tensor


def get(name: str | Mapping[str, float], /, **hyperparameters: Any) -> Loss | Mix:
    """Make the loss with this name or alias, or the weighted mix {name: weight}, with these hyperparameters.

    ValueError, which lists all problems, for an unknown name or hyperparameter, a value out of bounds, or hyperparameters
    that exclude each other.
    """
    info = describe_mix(name) if isinstance(name, Mapping) else describe(name)
    if problems := info.check(hyperparameters):
        raise ValueError(" ".join(problems))
    filled = info.fill(hyperparameters)
    return Mix(info, filled) if isinstance(info, MixInfo) else Loss(info, filled)


class _Declared:
    """Base of `Loss` and `Mix`: properties of the declaration, the check of the tensors, equality."""

    info: LossInfo | MixInfo
    hyperparameters: dict[str, Any]

    name = property(lambda self: self.info.name)
    inputs = property(lambda self: self.info.inputs, doc="Names of the tensors it reads.")
    needs_reference = property(lambda self: self.info.needs_reference)
    paired = property(lambda self: self.info.paired)
    coupled = property(lambda self: self.info.coupled)
    formula = property(lambda self: self.info.formula)
    paper = property(lambda self: self.info.paper)
    reduction = property(lambda self: self.info.reduction)
    beta_unit = property(lambda self: self.info.beta_unit)

    def _check_tensors(self, tensors: Mapping[str, Any]) -> None:
        missing = [name for name in self.inputs if name not in tensors]
        extra = [name for name in tensors if name not in self.inputs]
        if missing or extra:
            parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unread {', '.join(extra)}"] * bool(extra)
            raise TypeError(f"{self.name} reads exactly {', '.join(self.inputs)}; {'; '.join(parts)}.")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__reduce__() == other.__reduce__()


class Loss(_Declared):
    """A loss with its hyperparameters; made by `get`. It is pickled as its name and values."""

    def __init__(self, info: LossInfo, hyperparameters: dict[str, Any]):
        self.info = info
        self.hyperparameters = hyperparameters
        self._module = importlib.import_module(f"trl_ext.losses.{info.name}")

    @property
    def initial_value(self) -> float | None:
        """Per-example value at policy = reference; None if it depends on the data."""
        closed_form = getattr(self._module, "initial_value", None)
        return closed_form(**self.hyperparameters) if closed_form else None

    def replace(self, **hyperparameters: Any) -> Loss:
        """Copy with other values, checked as in `get`."""
        kept = {k: v for k, v in self.hyperparameters.items() if not _excluded_by(hyperparameters, k, self.info)}
        return get(self.name, **(kept | hyperparameters))

    def __call__(self, **tensors: Tensor) -> PairedOutput | UnpairedOutput:
        """Per-example losses (B,) and detached rewards. TypeError unless exactly `inputs` are given."""
        self._check_tensors(tensors)
        return getattr(self._module, self.name)(**tensors, **self.hyperparameters)

    def __repr__(self) -> str:
        values = "".join(f", {name}={value!r}" for name, value in self.hyperparameters.items())
        return f"losses.get({self.name!r}{values})"

    def __reduce__(self):
        return _restore, (self.name, self.hyperparameters)


class Mix(_Declared):
    """Σ weight·loss, with the interface of `Loss`. `hyperparameters` maps component to its values."""

    def __init__(self, info: MixInfo, hyperparameters: dict[str, dict[str, Any]]):
        self.info = info
        self.components = tuple(Loss(component, hyperparameters[component.name]) for component in info.components)
        self.weights = info.weights

    @property
    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """Component -> its values; `get` with them as keywords makes the same mix."""
        return {component.name: component.hyperparameters for component in self.components}

    @property
    def initial_value(self) -> float | None:
        """Weighted sum of the components' values; None if one of them depends on the data."""
        values = [component.initial_value for component in self.components]
        if None in values:
            return None
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))

    def replace(self, **hyperparameters: Any) -> Mix:
        """Copy with other values, which are passed to the components as in `get`."""
        if problems := self.info.check(hyperparameters):
            raise ValueError(" ".join(problems))
        share = self.info.split(hyperparameters)
        filled = {c.name: c.replace(**share[c.name]).hyperparameters for c in self.components}
        return Mix(self.info, filled)

    def __call__(self, **tensors: Tensor) -> PairedOutput | UnpairedOutput:
        """Weighted sum of the components' losses (B,), and the rewards of one component: the first that needs a reference;
        if there is none, the first that reads all completions of an example; otherwise the first."""
        self._check_tensors(tensors)
        outputs = [c(**{name: tensors[name] for name in c.inputs}) for c in self.components]
        losses = sum(weight * out.losses for weight, out in zip(self.weights, outputs, strict=True))
        return outputs[self._rewards_from()]._replace(losses=losses)

    def _rewards_from(self) -> int:
        ranks = [
            (c.needs_reference, "chosen_logps" not in c.inputs or "rejected_logps" in c.inputs)
            for c in self.components
        ]
        return ranks.index(max(ranks))

    def __repr__(self) -> str:
        return f"losses.get({self._weights_by_name()!r}, **{self.hyperparameters!r})"

    def __reduce__(self):
        return _restore, (self._weights_by_name(), self.hyperparameters)

    def _weights_by_name(self) -> dict[str, float]:
        return {c.name: weight for c, weight in zip(self.components, self.weights, strict=True)}


def _restore(name: str | dict[str, float], hyperparameters: dict[str, Any]) -> Loss | Mix:
    return get(name, **hyperparameters)


def _excluded_by(changes: Mapping[str, Any], name: str, info: LossInfo) -> bool:
    return any(name in group and any(changes.get(other) is not None for other in group) for group in info.exclusive)
