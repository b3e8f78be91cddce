"""Read the declaration of a loss from the syntax tree of its file, without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.losses._hyperparameters import KINDS, Kind
from trl_ext.support import declarations
from trl_ext.support.errors import UserError

PAIRED_TENSORS = (
    "chosen_logps",
    "rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_lens",
    "rejected_lens",
    "chosen_kl",
    "rejected_kl",
    "margin",
    "gold_logps",
    "gold_lens",
)
COLUMNS = {"margin": ("margin",), "gold": ("gold_logps", "gold_lens")}
"""Columns that some losses need beside a pair, and the tensors that come from them: the reward of chosen minus that of rejected, and a
third, better completion."""
UNPAIRED_TENSORS = ("logps", "ref_logps", "desirable", "z_ref")
NEXT, FIRST = "next_state", "first_state"
"""Functions of a file that set the running values of its loss."""


class LossFileError(UserError, ValueError):
    """A file in the folder of losses that does not declare a loss."""


@dataclass(frozen=True)
class LossInfo:
    """Declaration of a loss. Everything except the constants is derived from the function's signature."""

    name: str
    inputs: tuple[str, ...]  # tensors it reads, in the order of its signature
    hyperparameters: dict[str, Any]  # name -> default
    kinds: dict[str, Kind]  # name -> what a value may be
    summary: str  # first line of the file's docstring
    formula: str  # one line; symbols in trl_ext.losses.NOTATION
    paper: str  # arXiv id
    aliases: tuple[str, ...]  # other names it is known by, TRL's among them
    coupled: bool  # one example's loss depends on the others of the same optimizer step
    reduction: str  # what is summed or averaged over tokens
    beta_unit: str  # what one unit of beta multiplies
    when: str  # for which data and worry to choose it
    exclusive: tuple[tuple[str, ...], ...]  # hyperparameters of which only one may be given
    only_with: dict[str, tuple[str, Any]]  # hyperparameter -> (another one, the value at which it is read)
    state: dict[str, float]  # running values that the trainer keeps from step to step -> their values before the first
    starts_from_data: bool  # some of them are computed from the training set before the first step

    @property
    def paired(self) -> bool:
        """Whether it reads (chosen, rejected) pairs rather than single labelled completions."""
        return not set(self.inputs) & set(UNPAIRED_TENSORS)

    @property
    def needs_reference(self) -> bool:
        """Whether any tensor it reads needs a forward pass of the reference."""
        return any(name.startswith("ref_") or name == "z_ref" for name in self.inputs) or self.reads_distributions

    @property
    def reads_distributions(self) -> bool:
        """Whether it compares the whole next-token distributions of policy and reference, which no cache holds."""
        return any(name.endswith("_kl") for name in self.inputs)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the data needs for it, beside prompts, completions and labels."""
        return tuple(name for name, tensors in COLUMNS.items() if set(tensors) & set(self.inputs))

    def check(self, hyperparameters: Mapping[str, Any]) -> list[str]:
        """Check hyperparameters; those that are not given have their defaults. Returns one sentence per problem."""
        problems = []
        for name, value in hyperparameters.items():
            if name not in self.hyperparameters:
                problems.append(self._unread(name))
            elif not self.kinds[name].accepts(value):
                problems.append(f"{self.name}: {name} must be {self.kinds[name].phrase}, not {value!r}.")
        for group in self.exclusive:
            given = [name for name in group if hyperparameters.get(name) is not None]
            if len(given) > 1:
                problems.append(f"{self.name} takes {' or '.join(group)}, not both. Remove one of {', '.join(given)}.")
        for name, (switch, value) in self.only_with.items():
            now = hyperparameters.get(switch, self.hyperparameters[switch])
            if now != value and hyperparameters.get(name, self.hyperparameters[name]) != self.hyperparameters[name]:
                problems.append(
                    f"{self.name} reads {name} only with {switch}: {value}, but {switch} is {now}. "
                    f"Remove {name} or change {switch}."
                )
        return problems

    def fill(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Add defaults to these values. In an exclusive group, members that are not given become None."""
        filled = dict(self.hyperparameters)
        for group in self.exclusive:
            if any(hyperparameters.get(name) is not None for name in group):
                filled.update(dict.fromkeys(group))
        given = {name: value for name, value in hyperparameters.items() if not self._means_default(name, value)}
        return filled | given

    def _means_default(self, name: str, value: Any) -> bool:
        return value is None and any(name in group for group in self.exclusive)

    def _unread(self, name: str) -> str:
        from trl_ext.losses._registry import readers

        return declarations.unread(self.name, self.hyperparameters, name, readers(name))

    def __reduce__(self):
        from trl_ext.losses._registry import describe

        return describe, (self.name,)


def read(path: Path) -> LossInfo:
    """Read the declaration in `<name>.py`. ValueError with the file and the reason if it does not declare a loss."""
    try:
        return _declared(declarations.read(path))
    except (ValueError, SyntaxError) as error:
        raise LossFileError(f"{path} does not declare a loss: {error}") from error


def _declared(file: declarations.Declaration) -> LossInfo:
    state = _state(file)
    inputs = tuple(argument.arg for argument in file.positional if argument.arg not in state)
    if not inputs or not (set(inputs) <= set(PAIRED_TENSORS) or set(inputs) <= set(UNPAIRED_TENSORS)):
        raise ValueError(
            f"its tensors are {', '.join(inputs) or 'none'}. A paired loss reads some of "
            f"{', '.join(PAIRED_TENSORS)}; an unpaired loss reads some of {', '.join(UNPAIRED_TENSORS)}. "
            "Hyperparameters come after `*`."
        )
    defaults, kinds = declarations.hyperparameters(file.keyword, KINDS)
    file.require("FORMULA", "PAPER", "REDUCTION", "WHEN")
    constants = file.constants
    return LossInfo(
        name=file.name,
        inputs=inputs,
        hyperparameters=defaults,
        kinds=kinds,
        summary=file.summary,
        formula=constants["FORMULA"],
        paper=constants["PAPER"],
        aliases=tuple(constants.get("ALIASES", ())),
        coupled=bool(constants.get("COUPLED", False)),
        reduction=constants["REDUCTION"],
        beta_unit=constants.get("BETA_UNIT", ""),
        when=constants["WHEN"],
        exclusive=tuple(tuple(group) for group in constants.get("EXCLUSIVE", ())),
        only_with=dict(constants.get("ONLY_WITH", {})),
        state=state,
        starts_from_data=FIRST in file.functions,
    )


def _state(file: declarations.Declaration) -> dict[str, float]:
    """The running values of a loss. ValueError for a value that is no number, or without a function that sets them."""
    state = dict(file.constants.get("STATE", {}))
    if wrong := [name for name, value in state.items() if type(value) not in (int, float)]:
        raise ValueError(f"STATE gives {', '.join(wrong)} no number as its value before the first step.")
    if bool(state) != bool({NEXT, FIRST} & file.functions):
        raise ValueError(
            f"running values are declared by STATE = {{name: value before the first step}} together with a function `{NEXT}`, which "
            f"gives their values after a step, or `{FIRST}`, which computes them from the training set."
        )
    return {name: float(value) for name, value in state.items()}
