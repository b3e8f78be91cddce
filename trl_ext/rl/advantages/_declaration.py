"""Read the declaration of an advantage from the syntax tree of its file, without importing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.support import declarations
from trl_ext.support.errors import UserError
from trl_ext.support.kinds import KINDS, Kind

TENSORS = {
    "rewards": "(B, C), reward of each token: the score on the last one, minus a KL placed in the reward",
    "values": "(B, C), the critic's estimate of the return from each token on",
    "mask": "(B, C), 1 on completion tokens; all 0 for a completion without a score",
    "groups": "(B,), number of the prompt that each completion belongs to, from 0, the same on all processes",
    "greedy_rewards": "(B,), total reward of the greedy completion of the same prompt",
}
"""The tensors that an advantage can read: B completions of up to C tokens."""

ADD_UP = "add_up"
"""The parameter that sums a tensor over processes. Every advantage that looks beyond a completion has it."""

LEFT_OUT = "left_out"
"""The parameter, bool (B,), of completions whose score counts and whose tokens are not in the loss. An advantage that counts
tokens of other completions has it."""


class AdvantageFileError(UserError, ValueError):
    """A file in the folder of advantages that does not declare one."""


@dataclass(frozen=True)
class AdvantageInfo:
    """Declaration of an advantage. Everything except the constants is derived from the function's signature."""

    name: str
    inputs: tuple[str, ...]  # tensors it reads, in the order of its signature
    hyperparameters: dict[str, Any]  # name -> default
    kinds: dict[str, Kind]  # name -> what a value may be
    summary: str  # first line of the file's docstring
    formula: str  # one line; symbols in trl_ext.rl.advantages.NOTATION
    paper: str  # arXiv id
    aggregation: str  # the paper's `loss_aggregation`, a key of trl_ext.rl.policy_gradient.AGGREGATIONS
    level: str  # the paper's `importance_sampling_level`, a key of trl_ext.rl.policy_gradient.LEVELS
    whitens: bool  # the result is whitened over the batch, so that whitening it again changes nothing

    @property
    def needs_critic(self) -> bool:
        """Whether a critic has to be trained."""
        return "values" in self.inputs

    @property
    def needs_groups(self) -> bool:
        """Whether it compares the completions of a prompt, so that each prompt needs at least two."""
        return "groups" in self.inputs

    @property
    def needs_greedy(self) -> bool:
        """Whether one greedy completion has to be sampled and scored for each prompt."""
        return "greedy_rewards" in self.inputs

    def check(self, hyperparameters: Mapping[str, Any]) -> list[str]:
        """Check hyperparameters; those that are not given have their defaults. Returns one sentence per problem."""
        problems = []
        for name, value in hyperparameters.items():
            if name not in self.hyperparameters:
                problems.append(self._unread(name))
            elif not self.kinds[name].accepts(value):
                problems.append(f"{self.name}: {name} must be {self.kinds[name].phrase}, not {value!r}.")
        return problems

    def _unread(self, name: str) -> str:
        from trl_ext.rl.advantages._registry import readers

        return declarations.unread(self.name, self.hyperparameters, name, readers(name))

    def __reduce__(self):
        from trl_ext.rl.advantages._registry import describe

        return describe, (self.name,)


def read(path: Path) -> AdvantageInfo:
    """Read the declaration in `<name>.py`. ValueError with the file and the reason if it does not declare one."""
    try:
        return _declared(declarations.read(path))
    except (ValueError, SyntaxError) as error:
        raise AdvantageFileError(f"{path} does not declare an advantage: {error}") from error


def _declared(file: declarations.Declaration) -> AdvantageInfo:
    inputs = tuple(argument.arg for argument, default in file.positional.items() if default is None)
    if not {"rewards", "mask"} <= set(inputs) <= set(TENSORS):
        raise ValueError(
            f"its tensors are {', '.join(inputs) or 'none'}. An advantage reads rewards and mask, and possibly "
            f"{', '.join(name for name in TENSORS if name not in ('rewards', 'mask'))}. Hyperparameters have a default."
        )
    optional = {argument: default for argument, default in file.positional.items() if default is not None}
    optional |= {
        argument: default for argument, default in file.keyword.items() if argument.arg not in (ADD_UP, LEFT_OUT)
    }
    defaults, kinds = declarations.hyperparameters(optional, KINDS)
    file.require("FORMULA", "PAPER")
    return AdvantageInfo(
        name=file.name,
        inputs=inputs,
        hyperparameters=defaults,
        kinds=kinds,
        summary=file.summary,
        formula=file.constants["FORMULA"],
        paper=file.constants["PAPER"],
        aggregation=file.constants.get("AGGREGATION", "token"),
        level=file.constants.get("LEVEL", "token"),
        whitens=bool(file.constants.get("WHITENS", False)),
    )
