"""Declare a rule about settings, with the settings it reads and the methods it applies to.

A rule is a function from `Settings` to sentences, registered by `@problem(…)` or `@note(…)`. It is judged where every
setting that it reads exists, so a rule about `kl_coef` needs no further word to be about PPO alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trl_ext.checks.settings import Settings
from trl_ext.methods import Method

Judge = Callable[[Settings], Iterator[str]]

LOSS = "loss"
"""Among the settings a rule reads: it reads the declaration of the loss, `Settings.loss`."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        judge: Yields a sentence for each violation: the value given, the reason, what to do.
        reads: The settings it reads.
        applies_to: Whether it holds for a method.
        recipe_only: Not judged for a configuration: it looks at files, paths or packages, or at which keys were written.
        is_note: Its sentences are notes, which do not refuse anything.
        also: Settings that it reads where they exist: other spellings of those in `reads`.
        is_requirement: It is about the machine that trains, and judged only where a recipe is to be trained.
    """

    judge: Judge
    reads: tuple[str, ...]
    applies_to: Callable[[Method], bool]
    recipe_only: bool
    is_note: bool
    is_requirement: bool = False
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Module and function of the rule, and the setting where a table makes one rule for each."""
        function = getattr(self.judge, "func", self.judge)
        made_for = f"[{', '.join(map(str, self.judge.args))}]" if function is not self.judge else ""
        return f"{function.__module__.rpartition('.')[2]}.{function.__name__}{made_for}"

    def is_judged(self, s: Settings) -> bool:
        """Whether the rule applies to the method and every setting that it reads exists."""
        if self.recipe_only and not s.is_recipe:
            return False
        return self.applies_to(s.method) and all(s.loss if key == LOSS else s.has(key) for key in self.reads)


RULES: list[Rule] = []
"""Every rule, in the order of registration."""


def every_method(method: Method) -> bool:
    return True


def samples(method: Method) -> bool:
    """Whether completions are sampled during training."""
    return method.samples_completions


def samples_pairs(method: Method) -> bool:
    """Whether a loss is trained on pairs of sampled completions."""
    return method.samples_completions and method.has_loss


def is_policy_gradient(method: Method) -> bool:
    """Whether sampled completions are weighted by their rewards."""
    return method.samples_completions and not method.has_loss


def problem(
    *reads: str,
    applies_to: Callable[[Method], bool] = every_method,
    recipe_only: bool = False,
    also: tuple[str, ...] = (),
) -> Callable[[Judge], Judge]:
    """Register a rule whose violation is refused. Arguments: see `Rule`."""
    return lambda judge: _register(Rule(judge, reads, applies_to, recipe_only, is_note=False, also=also))


def requirement(*reads: str, applies_to: Callable[[Method], bool] = every_method) -> Callable[[Judge], Judge]:
    """Register a rule about what a recipe needs on the machine that trains it. Arguments: see `Rule`."""
    return lambda judge: _register(
        Rule(judge, reads, applies_to, recipe_only=True, is_note=False, is_requirement=True)
    )


def note(
    *reads: str,
    applies_to: Callable[[Method], bool] = every_method,
    recipe_only: bool = False,
    also: tuple[str, ...] = (),
) -> Callable[[Judge], Judge]:
    """Register a rule whose violation is only reported. Arguments: see `Rule`."""
    return lambda judge: _register(Rule(judge, reads, applies_to, recipe_only, is_note=True, also=also))


def _register(rule: Rule) -> Judge:
    RULES.append(rule)
    return rule.judge
