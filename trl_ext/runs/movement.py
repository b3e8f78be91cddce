"""Measure how far a run has moved its policy: the largest change of a token's log-probability against the start.

A low learning rate can leave every completion as it was, while the accuracy on pairs, which counts the sign of the smallest
difference, goes up to 1. Of a reward model, the probabilities of preferences are compared instead
(`trl_ext.runs.movement_examples`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from trl_ext.methods import Method
from trl_ext.reference import switching
from trl_ext.runs import movement_examples
from trl_ext.runs.movement_examples import Example, Tokens
from trl_ext.support.counts import count
from trl_ext.support.free_memory import release
from trl_ext.support.run_log import log
from trl_ext.trainers.common import lora
from trl_ext.trainers.rollout.roles import CRITIC, REWARD

EXAMPLES = 16
"""Examples that are scored before and after training."""
SMALLEST = 0.01
"""Nats by which some log-probability has to change: a probability by 1 %."""
ROUNDING = 3
"""Largest change that rounding is held responsible for, in units of its measured size."""


class Moved(NamedTuple):
    """How far the policy is from where training started.

    Attributes:
        largest: Largest change of a log-probability, in nats.
        noise: Largest change of one before training when two copies of a sequence were scored at once: rounding.
        n: Number of log-probabilities.
        is_held_out: Whether the examples were not trained on.
        examples: The kind of examples.
    """

    largest: float
    noise: float
    n: int
    is_held_out: bool
    examples: type[Tokens] = Tokens

    @property
    def is_nothing(self) -> bool:
        """Whether no probability changed by 1 %, or by more than rounding changes it."""
        return self.largest < max(SMALLEST, ROUNDING * self.noise)


class Movement(TrainerCallback):
    """Scores a few examples of the evaluation data, or else of the training data, before the first step.

    An error is written to the log and leaves the run unmeasured: it never ends the run.

    Args:
        trainer: A model that is sharded, or data with images, is not measured.
        method: The kind of training.
    """

    def __init__(self, trainer: Any, method: Method) -> None:
        self.trainer = trainer
        self._of = movement_examples.of(trainer, method)
        self._examples: list[Example] = []
        self._is_held_out = False
        self._before: list[torch.Tensor] | None = None
        self._noise = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not self.trainer.is_fsdp_enabled:
            with _without_errors():
                self._begin(state.global_step > 0)
            release()

    def measure(self) -> Moved | None:
        """How far the policy has moved; `None` where the start is not known, or it cannot be measured."""
        if not self._before:
            return None
        with _without_errors():
            after = [self._of.values(each) for each in self._examples]
            largest = max(_distance(*each) for each in zip(self._before, after, strict=True))
            return Moved(largest, self._noise, sum(map(len, after)), self._is_held_out, type(self._of))
        return None

    def _begin(self, is_resumed: bool) -> None:
        """Score the examples under the policy that training starts from, if it is known."""
        if is_resumed and not _starts_at_its_base(self.trainer.model):
            return
        with switching.adapter_off(self._of.model) if is_resumed else nullcontext():
            rows, self._is_held_out = self._rows()
            self._examples = self._of.read(rows)
            self._before = [self._of.values(each) for each in self._examples]
        if not is_resumed:
            twice = [self._of.values(each, copies=2) for each in self._examples]
            self._noise = max(map(_distance, self._before, twice), default=0.0)

    def _rows(self) -> tuple[list[dict[str, Any]], bool]:
        """The first rows of the data, and whether they are held out."""
        held_out, train = self.trainer.eval_dataset, self.trainer.train_dataset
        if isinstance(held_out, dict):
            held_out = next(iter(held_out.values()), None)
        return list(itertools.islice(train if held_out is None else held_out, EXAMPLES)), held_out is not None


def sentence(moved: Moved, steps: int, rate: float, reason: str | None = None) -> str:
    """What is printed in place of results that show nothing.

    Args:
        reason: Why there was nothing to learn from, as a clause; `None` if there was.
    """
    whose, of = "held-out" if moved.is_held_out else "training", moved.examples
    rounding = f" Rounding alone changes it by up to {moved.noise:.1g}." if ROUNDING * moved.noise > SMALLEST else ""
    advice = (
        f"Raise `learning_rate`, which is {rate:g}, or train longer."
        if reason is None
        else f"{reason[0].upper()}{reason[1:]}, so there was nothing to learn from at any learning rate."
    )
    return (
        f"Nothing was learned. After {count(steps, 'steps')}, no {of.differs} differs from the start by more than {moved.largest:.1g} "
        f"nats ({moved.n:,} {whose} {of.unit}), so {of.so}.{rounding} {advice}"
    )


@contextmanager
def _without_errors() -> Iterator[None]:
    """Context that writes an error to the log and ends there."""
    try:
        yield
    except Exception as error:  # a device may run out of memory, and much else
        log.add(f"How far the run moved its policy was not measured ({type(error).__name__}: {error}).")


def _starts_at_its_base(model: Any) -> bool:
    """Whether training started where the adapter, turned off, is."""
    configs = model.peft_config if lora.has_adapter(model) else {}
    of_policy = [config for name, config in configs.items() if name not in (CRITIC, REWARD)]
    return len(of_policy) == 1 and getattr(of_policy[0], "init_lora_weights", None) is True


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()
