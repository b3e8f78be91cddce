"""Estimate the KTO baseline from mismatched pairs: those of the optimizer step itself, where the data does not hold them."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from accelerate.utils import gather_object

from trl_ext.batching.mismatched import mismatched
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.humanline import Clip
from trl_ext.trainers.preference.reference_rows import ReferenceRows
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.rows import Rows


class Baseline:
    """Estimate z = max(0, mean of log π/π_ref over mismatched pairs), KTO (arXiv:2402.01306, Eq. 7).

    Args:
        runtime, rows, references, reference_rows: The trainer's.
        precomputed: Reference log-probabilities of the examples are a column of the data.
        has_fixed_pairs: So are the mismatched pairs (`trl_ext.trainers.preference.fixed_pairs`).
        clip: Bounds of each token's log-ratio in a humanline variant, or `None`.
    """

    def __init__(
        self,
        runtime: Runtime,
        rows: Rows,
        references: References,
        reference_rows: ReferenceRows,
        *,
        precomputed: bool,
        has_fixed_pairs: bool,
        clip: Clip | None = None,
    ) -> None:
        self.runtime = runtime
        self.rows = rows
        self.references = references
        self.reference_rows = reference_rows
        self.precomputed = precomputed
        self.has_fixed_pairs = has_fixed_pairs
        self.clip = clip
        self._has_warned = False

    def estimate(self, examples: list[dict]) -> torch.Tensor:
        """The baseline of a step: a scalar without gradient, clamped after averaging over all processes.

        Args:
            examples: The examples of this process. Reference log-probabilities that are in no column are added as
                `ref_logps`.
        """
        pairs = self._fixed_pairs(examples) if self.has_fixed_pairs else self._pairs_of_step(examples)
        if self.clip is not None:
            with self.runtime.locally():
                log_ratio = self._clipped_log_ratio(pairs, examples)
            return self._mean(log_ratio, len(pairs))
        with self.runtime.locally():
            if not self.has_fixed_pairs:
                self._add_reference([*pairs, *([] if self.precomputed else examples)], examples)
            policy = self._policy_logps(pairs, examples)
        return self._mean(policy - sum(pair["ref_logps"] for pair in pairs), len(pairs))

    def estimate_collated(self, batches: Iterable[dict[str, Any]]) -> torch.Tensor:
        """The baseline of collated micro-batches, whose mismatched pairs TRL's collator for images made."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.runtime.device), 0
        for batch in batches:
            pairs = {key: value for key, value in batch.items() if not key.startswith(forward.MISMATCHED)}
            pairs |= {key.removeprefix(forward.MISMATCHED): batch[key] for key in batch.keys() - pairs.keys()}
            pairs = self.runtime.to_device(pairs)
            with self.runtime.autocast():
                total -= self.references.run(pairs).per_token_logps.sum()
                with no_grad_eval(self.runtime.model):
                    total += forward.run(self.runtime.model, pairs).per_token_logps.sum()
            count += len(batch["label"])
        return self._mean(total, count)

    def _mean(self, log_ratio: torch.Tensor, count: int) -> torch.Tensor:
        """Clamped mean over the pairs of all processes."""
        accelerator, total = self.runtime.accelerator, count
        if accelerator.num_processes > 1:
            sums = torch.stack([log_ratio, torch.full_like(log_ratio, count)])
            log_ratio, counts = accelerator.reduce(sums, reduction="sum")
            total = counts.item()
        if total == 0 and not self._has_warned:
            self._has_warned = True
            self.runtime.say(
                "KTO baseline: all examples of a step have the same prompt, so it has no mismatched pairs and z is 0. Use "
                "more examples per step (per_device_train_batch_size × gradient_accumulation_steps)."
            )
        return (log_ratio / max(total, 1)).clamp(min=0).float()

    # Pairs, each with the reference log-probability of its completion ----------------------------------------------

    def _fixed_pairs(self, examples: list[dict]) -> list[dict]:
        """The pairs that columns of the data hold."""
        return [
            {**_sequence(example, "KL_completion_ids"), "ref_logps": example["ref_KL_logps"]}
            for example in examples
            if example["KL_completion_ids"]
        ]

    def _pairs_of_step(self, examples: list[dict]) -> list[dict]:
        """The pairs of this process's prompts with completions of the step, over all processes."""
        accelerator = self.runtime.accelerator
        process = accelerator.process_index
        own = [_sequence(example) | {"process": process} for example in examples]
        # Every process gets the same list, and scores the pairs with its own prompts, which its own completions share.
        pairs = mismatched(gather_object(own) if accelerator.num_processes > 1 else own)
        return [pair for pair in pairs if pair["process"] == process]

    def _add_reference(self, sequences: list[dict], examples: list[dict]) -> None:
        """Add `ref_logps` to pairs and examples.

        The reference scores matched and mismatched completions of a prompt in one pass, in which they share the prompt.
        The policy does not: no loss can be computed before z is known. A shared pass would have to hold the whole step in
        one row, keep the activations of mismatched completions, and apply dropout to them.
        """
        if self.reference_rows.are_used:
            if sequences:
                self._add_from_longer_rows(sequences, examples)
            return
        numbered = [{**sequence, "number": i} for i, sequence in enumerate(_sequences(sequences))]
        for row, counts in self.rows.together(self.rows.cut(numbered), _sequences(examples)):
            with self.runtime.autocast():
                batch = self.rows.collate(row)
                fields = self.references.score(batch).only(batch.get("learned"))
            if not counts:
                continue
            for sequence, logps in zip(row, fields.per_token_logps.sum(dim=1).tolist(), strict=True):
                sequences[sequence["number"]]["ref_logps"] = logps

    def _add_from_longer_rows(self, sequences: list[dict], examples: list[dict]) -> None:
        completions = self.rows.tokens.sequences(_sequences(sequences))
        scored = forward.from_arrays(self.reference_rows.score(completions, examples), torch.device("cpu"))
        if (learned := self.rows.tokens.learned(sequences)) is not None:
            scored = scored.only(torch.tensor(list(chain.from_iterable(learned)), dtype=torch.bool))
        for sequence, logps in zip(sequences, scored.per_token_logps.sum(dim=1).tolist(), strict=True):
            sequence["ref_logps"] = logps

    def _policy_logps(self, pairs: list[dict], examples: list[dict]) -> torch.Tensor:
        """Σ log π over the completions of `pairs`, a scalar, without gradient."""
        return self._total(pairs, examples, lambda batch: self._policy(batch).per_token_logps.sum())

    def _clipped_log_ratio(self, pairs: list[dict], examples: list[dict]) -> torch.Tensor:
        """Σ of the clipped log π/π_ref over the tokens of the completions of `pairs`, a scalar, without gradient."""

        def of_row(batch: dict[str, Any]) -> torch.Tensor:
            reference = self.references.run(batch).only(batch.get("learned"))
            return self.clip.log_ratios(self._policy(batch), reference)[0].sum()

        return self._total(pairs, examples, of_row)

    def _policy(self, batch: dict[str, Any]) -> forward.Completions:
        return forward.run(self.runtime.model, batch).only(batch.get("learned"))

    def _total(
        self, pairs: list[dict], examples: list[dict], of_row: Callable[[dict[str, Any]], torch.Tensor]
    ) -> torch.Tensor:
        """The sum over the rows of `pairs`, a scalar in float64, without gradient."""
        total = torch.zeros((), dtype=torch.float64, device=self.runtime.device)
        with no_grad_eval(self.runtime.model), self.runtime.autocast():
            for row, counts in self.rows.together(self.rows.cut(_sequences(pairs)), _sequences(examples)):
                value = of_row(self.rows.collate(row))
                total += value if counts else 0.0
        return total


def _sequences(examples: list[dict]) -> list[dict]:
    return [_sequence(example) for example in examples]


def _sequence(example: dict, completion: str = "completion_ids") -> dict:
    learned = {name: example[name] for name in ("completion_learned",) if name in example}
    return {"prompt_ids": example["prompt_ids"], "completion_ids": example[completion], "label": False} | learned
