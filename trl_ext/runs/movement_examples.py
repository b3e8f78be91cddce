"""Examples on which the movement of a run is measured, by kind of training, and the numbers that are compared on them.

| kind | example | numbers |
|---|---|---|
| preferences, demonstrations | the beginning of a completion of the data, after the end of its prompt | log-probability of each token |
| kinds that sample | the same of a completion that the policy of the start has sampled | log-probability of each token |
| reward model | the ends of both completions of a pair | log-probability of the preference, log σ(r_w − r_l) |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from trl_ext.methods import Method
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.support import sampling

TOKENS = 128
"""Tokens on either side of the beginning of a completion."""
SAMPLED = 32
"""Tokens of a sampled completion."""
COMPLETIONS = ("chosen_ids", "completion_ids", "input_ids")
SEED = 0

Example = tuple[list[int], ...]
"""Token ids of the sequences that one example needs."""


class Tokens:
    """Completions of the data.

    Args:
        trainer: Its model is the policy.
    """

    unit = "tokens"
    differs = "token's log-probability"
    so = "the model writes what it wrote before"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def read(self, rows: Iterable[dict[str, Any]]) -> list[Example]:
        """The examples in rows of the trainer's data; none of rows with images."""
        found = []
        for row in rows:
            name = next((name for name in COMPLETIONS if name in row), None)
            if name is not None and not _has_images(row):
                found.append(around_its_beginning(row, name))
        return [(ids,) for ids in found if len(ids) > 1]

    def values(self, example: Example, copies: int = 1) -> torch.Tensor:
        """The numbers of an example, in nats.

        Args:
            example: One of `read`.
            copies: Equal rows of a forward pass.
        """
        (ids,) = example
        logits = self._logits(ids, copies)[:-1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:], device=logits.device)[:, None]).squeeze(1).cpu()

    def _logits(self, ids: list[int], copies: int) -> torch.Tensor:
        """Of the first of several equal sequences, in float32."""
        model = self.model
        batch = torch.tensor([ids] * copies, device=self.trainer.args.device)
        with no_grad_eval(model), self.trainer.compute_loss_context_manager():
            return model(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False).logits[0].float()

    @property
    def model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)


class SampledTokens(Tokens):
    """Completions that the policy has sampled when the examples are read. The global random state is not used."""

    def read(self, rows: Iterable[dict[str, Any]]) -> list[Example]:
        prompts = [row["prompt"] for row in rows if "prompt" in row and not _has_images(row)]
        if not prompts:
            return []
        trainer = self.trainer
        completions = sampling.sample(
            self.model,
            trainer.processing_class,
            trainer._tokenize_prompts(prompts)[0],
            seed=SEED,
            max_new_tokens=min(SAMPLED, trainer.args.max_completion_length),
        )
        return [((each.prompt_ids + each.ids)[-TOKENS - SAMPLED :],) for each in completions if each.ids]


class Pairs(Tokens):
    """Pairs that a reward model compares, by the last `2 * TOKENS` tokens of each completion."""

    unit = "pairs"
    differs = "pair's log-probability of the preference, log σ(r_chosen − r_rejected),"
    so = "the model scores as it did before"

    def read(self, rows: Iterable[dict[str, Any]]) -> list[Example]:
        return [tuple(row[name][-2 * TOKENS :] for name in ("chosen_ids", "rejected_ids")) for row in rows]

    def values(self, example: Example, copies: int = 1) -> torch.Tensor:
        chosen, rejected = (self._logits(ids, copies) for ids in example)
        return logsigmoid(chosen - rejected).cpu()


def of(trainer: Any, method: Method) -> Tokens:
    """The examples of a kind of training."""
    kind = Pairs if method.trains_scores else SampledTokens if method.samples_completions else Tokens
    return kind(trainer)


def around_its_beginning(row: dict[str, Any], name: str) -> list[int]:
    """The end of an example's prompt and the beginning of its completion, `TOKENS` tokens of each."""
    prompt, ids = list(row.get("prompt_ids", ())), list(row[name])
    labels = row.get("labels", ())  # of a demonstration, whose prompt is in the same sequence
    begins = len(prompt) + next((i for i, label in enumerate(labels) if label != -100), 0)
    return [*prompt, *ids][max(begins - TOKENS, 0) : begins + TOKENS]


def _has_images(row: dict[str, Any]) -> bool:
    return bool({"image", "images"} & row.keys())
