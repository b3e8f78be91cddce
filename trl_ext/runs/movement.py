"""Measure how far a run has moved its policy: the largest change of a token's log-probability against the start.

A low learning rate can leave every completion as it was, while the accuracy on pairs, which counts the sign of the smallest
difference, goes up to 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from trl_ext.reference.implicit import no_grad_eval
from trl_ext.support.counts import count
from trl_ext.support.free_memory import release
from trl_ext.support.run_log import log
from trl_ext.trainers.common import lora

EXAMPLES, TOKENS = 16, 128
"""Sequences that are scored before and after training; tokens of each on either side of the beginning of its completion."""
SMALLEST = 0.01
"""Nats by which the log-probability of some token has to change: its probability by 1 %."""
ROUNDING = 3
"""Largest change that rounding is held responsible for, in units of its measured size."""
COMPLETIONS = ("chosen_ids", "completion_ids", "input_ids")


class Moved(NamedTuple):
    """How far the policy is from where training started.

    Attributes:
        largest: Largest change of a token's log-probability, in nats.
        noise: Largest change of one before training when two copies of a sequence were scored at once: rounding.
        tokens: Number of tokens.
        is_held_out: Whether the sequences were not trained on.
    """

    largest: float
    noise: float
    tokens: int
    is_held_out: bool

    @property
    def is_nothing(self) -> bool:
        """Whether no probability changed by 1 %, or by more than rounding changes it."""
        return self.largest < max(SMALLEST, ROUNDING * self.noise)


class Movement(TrainerCallback):
    """Scores a few sequences of the evaluation data, or else of the training data, before the first step.

    A sequence is the last `TOKENS` tokens of a prompt and the first `TOKENS` of its completion. An error is written to the log
    and leaves the run unmeasured: it never ends the run.

    Args:
        trainer: Of a kind whose data holds completions. A model that is sharded, or data with images, is not measured.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._sequences: list[list[int]] = []
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
        if self._before is None:
            return None
        with _without_errors():
            after = [self._score([ids]) for ids in self._sequences]
            largest = max(_distance(*each) for each in zip(self._before, after, strict=True))
            return Moved(largest, self._noise, sum(map(len, after)), self._is_held_out)
        return None

    def _begin(self, is_resumed: bool) -> None:
        """Score the sequences under the policy that training starts from, if it is known."""
        self._sequences, self._is_held_out = self._read()
        if not self._sequences:
            return
        if not is_resumed:
            before = [self._score([ids]) for ids in self._sequences]
            twice = [self._score([ids, ids]) for ids in self._sequences]
            self._noise = max(_distance(*each) for each in zip(before, twice, strict=True))
            self._before = before
        elif _starts_at_its_base(self.trainer.model):
            with self._model().disable_adapter():
                self._before = [self._score([ids]) for ids in self._sequences]

    def _read(self) -> tuple[list[list[int]], bool]:
        """Token ids of examples, prompt and completion, and whether they are held out."""
        held_out, train = self.trainer.eval_dataset, self.trainer.train_dataset
        if isinstance(held_out, dict):
            held_out = next(iter(held_out.values()), None)
        rows = itertools.islice(train if held_out is None else held_out, EXAMPLES)
        found = []
        for row in rows:
            name = next((name for name in COMPLETIONS if name in row), None)
            if name is not None and not {"image", "images"} & row.keys():
                found.append(_around_its_beginning(row, name))
        return [ids for ids in found if len(ids) > 1], held_out is not None

    def _score(self, batch: list[list[int]]) -> torch.Tensor:
        """Log-probabilities of the tokens after the first, of the first of these equal sequences, (T − 1,)."""
        model = self._model()
        ids = torch.tensor(batch, device=self.trainer.args.device)
        with no_grad_eval(model), self.trainer.compute_loss_context_manager():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
        return logits.float().log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1).cpu()

    def _model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)


def sentence(moved: Moved, steps: int, rate: float) -> str:
    """What is printed in place of results that show nothing."""
    whose = "held-out" if moved.is_held_out else "training"
    rounding = f" Rounding alone changes it by up to {moved.noise:.1g}." if ROUNDING * moved.noise > SMALLEST else ""
    return (
        f"Nothing was learned. After {count(steps, 'steps')}, no token's log-probability differs from the start by more than {moved.largest:.1g} "
        f"nats ({moved.tokens:,} {whose} tokens), so the model writes what it wrote before.{rounding} Raise "
        f"`learning_rate`, which is {rate:g}, or train longer."
    )


def _around_its_beginning(row: dict[str, Any], name: str) -> list[int]:
    """The end of an example's prompt and the beginning of its completion, `TOKENS` tokens of each."""
    prompt, ids = list(row.get("prompt_ids", ())), list(row[name])
    labels = row.get("labels", ())  # of a demonstration, whose prompt is in the same sequence
    begins = len(prompt) + next((i for i, label in enumerate(labels) if label != -100), 0)
    return [*prompt, *ids][max(begins - TOKENS, 0) : begins + TOKENS]


@contextmanager
def _without_errors() -> Iterator[None]:
    """Context that writes an error to the log and ends there."""
    try:
        yield
    except Exception as error:  # a device may run out of memory, and much else
        log.add(f"How far the run moved its policy was not measured ({type(error).__name__}: {error}).")


def _starts_at_its_base(model: Any) -> bool:
    """Whether training started where the adapter, turned off, is."""
    configs = model.peft_config.values() if lora.has_adapter(model) else ()
    return len(configs) == 1 and all(getattr(config, "init_lora_weights", None) is True for config in configs)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()
