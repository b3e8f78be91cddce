"""Measure how far a run has moved its policy: the largest change of a token's log-probability against the start.

A low learning rate can leave every completion as it was, while the accuracy on pairs, which counts the sign of the smallest
difference, goes up to 1.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from trl_ext.reference.implicit import no_grad_eval
from trl_ext.support.counts import count
from trl_ext.support.free_memory import release
from trl_ext.trainers.common import lora

EXAMPLES, TOKENS = 16, 256
"""Sequences that are scored before and after training, and the tokens of each."""
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

    Args:
        trainer: Of a kind whose data holds completions. A model that is sharded, or data with images, is not measured.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._before: list[torch.Tensor] | None = None
        self._noise = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sequences, _ = self._sequences()
        if not state.is_world_process_zero or self.trainer.is_fsdp_enabled or not sequences:
            return
        if state.global_step == 0:
            self._before = [self._score([ids]) for ids in sequences]
            twice = [self._score([ids, ids]) for ids in sequences]
            self._noise = max(_distance(*each) for each in zip(self._before, twice, strict=True))
        elif _starts_at_its_base(self.trainer.model):  # resumed
            with self._model().disable_adapter():
                self._before = [self._score([ids]) for ids in sequences]
        release()

    def measure(self) -> Moved | None:
        """How far the policy has moved; `None` where the start is not known."""
        if self._before is None:
            return None
        sequences, is_held_out = self._sequences()
        after = [self._score([ids]) for ids in sequences]
        largest = max(_distance(*each) for each in zip(self._before, after, strict=True))
        return Moved(largest, self._noise, sum(map(len, after)), is_held_out)

    def _sequences(self) -> tuple[list[list[int]], bool]:
        """Token ids of examples, prompt and completion, and whether they are held out."""
        held_out, train = self.trainer.eval_dataset, self.trainer.train_dataset
        if isinstance(held_out, dict):
            held_out = next(iter(held_out.values()), None)
        rows = itertools.islice(train if held_out is None else held_out, EXAMPLES)
        found = []
        for row in rows:
            name = next((name for name in COMPLETIONS if name in row), None)
            if name is not None and not {"image", "images"} & row.keys():
                found.append([*row.get("prompt_ids", ()), *row[name]][:TOKENS])
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


def _starts_at_its_base(model: Any) -> bool:
    """Whether training started where the adapter, turned off, is."""
    configs = model.peft_config.values() if lora.has_adapter(model) else ()
    return len(configs) == 1 and all(getattr(config, "init_lora_weights", None) is True for config in configs)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()
