"""Bind losses to their hyperparameters, and sum weighted losses."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trl_ext.losses._declaration import FIRST, NEXT, LossInfo
from trl_ext.losses._mix import MixInfo, describe_mix
from trl_ext.losses._outputs import PairedOutput, UnpairedOutput
from trl_ext.losses._registry import describe

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, Any]
"""Running values of a loss by name, as numbers; of a mix, component -> its running values."""


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
    reads_distributions = property(lambda self: self.info.reads_distributions)
    paired = property(lambda self: self.info.paired)
    columns = property(lambda self: self.info.columns, doc="Columns of the data that it reads.")
    coupled = property(lambda self: self.info.coupled)
    starts_from_data = property(lambda self: self.info.starts_from_data)
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

    @property
    def initial_state(self) -> State:
        """Its running values before the first step, by name; empty for most losses."""
        return dict(self.info.state)

    def next_state(self, state: State, **tensors: Tensor) -> State:
        """Its running values after an optimizer step.

        Args:
            state: Those before it.
            tensors: `inputs` of all examples of the step, over all processes.
        """
        return self._changed(NEXT, state, tensors)

    def first_state(self, state: State, **tensors: Tensor) -> State:
        """Its running values before the first step, where the training set decides them.

        Args:
            state: `initial_state`.
            tensors: `inputs` of all examples of the training set, under the policy that training starts from.
        """
        return self._changed(FIRST, state, tensors)

    def __call__(self, *, state: State | None = None, **tensors: Tensor) -> PairedOutput | UnpairedOutput:
        """Per-example losses (B,) and detached rewards. TypeError unless exactly `inputs` are given.

        Args:
            state: Running values (default: `initial_state`).
            tensors: `inputs`.
        """
        self._check_tensors(tensors)
        function = getattr(self._module, self.name)
        if not self.info.state:
            return function(**tensors, **self.hyperparameters)
        now = _as_tensors(self.initial_state if state is None else state, tensors)
        return function(**tensors, **_read_by(function, now), **self.hyperparameters)

    def _changed(self, function: str, state: State, tensors: Mapping[str, Tensor]) -> State:
        change = getattr(self._module, function, None)
        if change is None:
            return state
        detached = {name: value.detach() for name, value in tensors.items()}
        given = _read_by(change, detached | _as_tensors(state, detached, exact=True))
        return state | {name: float(value) for name, value in change(**given, **self.hyperparameters).items()}

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

    @property
    def initial_state(self) -> State:
        """Component -> its running values before the first step, for components that have any."""
        return {c.name: c.initial_state for c in self.components if c.initial_state}

    def next_state(self, state: State, **tensors: Tensor) -> State:
        """The running values of its components after an optimizer step; see `Loss.next_state`."""
        return {c.name: c.next_state(state[c.name], **_read(c, tensors)) for c in self.components if c.name in state}

    def first_state(self, state: State, **tensors: Tensor) -> State:
        """Those before the first step, where the training set decides them; see `Loss.first_state`."""
        return {c.name: c.first_state(state[c.name], **_read(c, tensors)) for c in self.components if c.name in state}

    def __call__(self, *, state: State | None = None, **tensors: Tensor) -> PairedOutput | UnpairedOutput:
        """Weighted sum of the components' losses (B,), and the rewards of one component: the first that needs a reference;
        if there is none, the first that reads all completions of an example; otherwise the first."""
        self._check_tensors(tensors)
        state = state or {}
        outputs = [c(state=state.get(c.name), **_read(c, tensors)) for c in self.components]
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


def _read(component: Loss, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in component.inputs}


def _read_by(function: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a function has as parameters."""
    return {name: values[name] for name in _parameters(function) if name in values}


@functools.cache
def _parameters(function: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _as_tensors(state: State, tensors: Mapping[str, Tensor], *, exact: bool = False) -> dict[str, Tensor]:
    """Running values as scalars without gradient, on the device and in the dtype of the tensors (`exact`: in float64)."""
    like = next(value for value in tensors.values() if value.is_floating_point())
    if exact:
        like = like.cpu().double()
    return {name: like.new_tensor(value) for name, value in state.items()}


def _restore(name: str | dict[str, float], hyperparameters: dict[str, Any]) -> Loss | Mix:
    return get(name, **hyperparameters)


def _excluded_by(changes: Mapping[str, Any], name: str, info: LossInfo) -> bool:
    return any(name in group and any(changes.get(other) is not None for other in group) for group in info.exclusive)
