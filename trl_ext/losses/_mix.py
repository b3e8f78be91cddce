"""Describe and check weighted mixes of losses without importing torch."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_ext.losses._declaration import LossInfo
from trl_ext.losses._registry import canonical, describe


@dataclass(frozen=True)
class MixInfo:
    """The declaration of Σ weight·loss; the fields of `LossInfo` that make sense for a mix, and the rule
    by which hyperparameters reach the components: a plain value goes to every component that reads that
    name, a mapping under a component's name goes to that component alone and wins over plain values."""

    components: tuple[LossInfo, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        return " + ".join(
            info.name if weight == 1 else f"{weight:g}·{info.name}"
            for info, weight in zip(self.components, self.weights, strict=True)
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tensor for info in self.components for tensor in info.inputs))

    @property
    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """Component -> its hyperparameters with their defaults."""
        return {info.name: dict(info.hyperparameters) for info in self.components}

    @property
    def paired(self) -> bool:
        return self.components[0].paired

    @property
    def needs_reference(self) -> bool:
        return any(info.needs_reference for info in self.components)

    @property
    def reads_distributions(self) -> bool:
        return any(info.reads_distributions for info in self.components)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for info in self.components for column in info.columns))

    @property
    def coupled(self) -> bool:
        return any(info.coupled for info in self.components)

    @property
    def state(self) -> dict[str, dict[str, float]]:
        """Component -> its running values, for components that have any."""
        return {info.name: info.state for info in self.components if info.state}

    @property
    def starts_from_data(self) -> bool:
        return any(info.starts_from_data for info in self.components)

    @property
    def formula(self) -> str:
        return " + ".join(
            f"{weight:g}·[{info.formula}]" for info, weight in zip(self.components, self.weights, strict=True)
        )

    @property
    def paper(self) -> str:
        return ", ".join(dict.fromkeys(info.paper for info in self.components))

    @property
    def reduction(self) -> str:
        return "; ".join(f"{info.name}: {info.reduction}" for info in self.components)

    @property
    def beta_unit(self) -> str:
        return "; ".join(f"{info.name}: {info.beta_unit}" for info in self.components if info.beta_unit)

    def check(self, hyperparameters: Mapping[str, Any]) -> list[str]:
        """Check hyperparameters. Returns one sentence per problem."""
        problems = []
        for name, value in hyperparameters.items():
            if isinstance(value, Mapping):
                if self._component(name) is None:
                    names = ", ".join(info.name for info in self.components)
                    problems.append(f"{name!r} is not a component of {self.name}. Its components are {names}.")
            elif not any(name in info.hyperparameters for info in self.components):
                reads = "; ".join(
                    f"{info.name}: {', '.join(sorted(info.hyperparameters)) or 'none'}" for info in self.components
                )
                problems.append(f"No component of {self.name} reads {name!r}. They read {reads}.")
        share = self.split(hyperparameters)
        return list(dict.fromkeys(problems + [p for info in self.components for p in info.check(share[info.name])]))

    def split(self, hyperparameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Component -> those of these values that it reads, without defaults."""
        plain = {name: value for name, value in hyperparameters.items() if not isinstance(value, Mapping)}
        share = {
            info.name: {name: value for name, value in plain.items() if name in info.hyperparameters}
            for info in self.components
        }
        for name, value in hyperparameters.items():
            if isinstance(value, Mapping) and (component := self._component(name)):
                share[component].update(value)
        return share

    def fill(self, hyperparameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Component -> its values, with defaults."""
        share = self.split(hyperparameters)
        return {info.name: info.fill(share[info.name]) for info in self.components}

    def _component(self, name: str) -> str | None:
        return next((info.name for info in self.components if name == info.name or name in info.aliases), None)


def describe_mix(weights: Mapping[str, float]) -> MixInfo:
    """Declaration of a mix {name or alias: weight}.

    ValueError, which lists all problems, if the mix is empty, a loss is unknown or repeated, a weight is not a positive
    finite number, or paired and unpaired losses are mixed.
    """
    problems: list[str] = []
    components: dict[str, tuple[LossInfo, float]] = {}
    if not weights:
        problems.append("A mix needs at least one loss. Write {name: weight, …}.")
    for name, weight in weights.items():
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not number or not 0 < weight <= sys.float_info.max:
            problems.append(f"The weight of {name} must be a positive finite number, not {weight!r}.")
        try:
            target = canonical(name)
        except ValueError as error:
            problems.append(str(error))
            continue
        if target in components:
            problems.append(f"{name!r} names {target} a second time. Give the sum of the two weights.")
        components[target] = describe(target), weight
    infos = tuple(info for info, _ in components.values())
    if len({info.paired for info in infos}) > 1:
        paired = ", ".join(info.name for info in infos if info.paired)
        unpaired = ", ".join(info.name for info in infos if not info.paired)
        problems.append(
            f"Paired losses ({paired}) and unpaired losses ({unpaired}) read different data. Mix losses of one kind."
        )
    if problems:
        raise ValueError(" ".join(problems))
    return MixInfo(infos, tuple(float(weight) for _, weight in components.values()))
