"""Estimate the KTO baseline from mismatched pairs of the optimizer step itself."""

import torch
from accelerate.utils import gather_object

from trl_ext.batching.mismatched import mismatched
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.rows import Rows
from trl_ext.trainers.preference.runtime import Runtime


class Baseline:
    """Estimate z = max(0, mean of log π/π_ref over the step's mismatched pairs), KTO (arXiv:2402.01306, Eq. 7).

    Args:
        runtime, rows, references: The trainer's.
        precomputed: Reference log-probabilities of the examples are a column of the data.
    """

    def __init__(self, runtime: Runtime, rows: Rows, references: References, *, precomputed: bool) -> None:
        self.runtime = runtime
        self.rows = rows
        self.references = references
        self.precomputed = precomputed
        self._has_warned = False

    def estimate(self, examples: list[dict]) -> torch.Tensor:
        """The baseline of a step: a scalar without gradient, clamped after averaging over all processes.

        Args:
            examples: The examples of this process. Their reference log-probabilities are added as `ref_logps`.
        """
        accelerator = self.runtime.accelerator
        process = accelerator.process_index
        own = [_sequence(example) | {"process": process} for example in examples]
        # Every process gets the same list.
        pairs = mismatched(gather_object(own) if accelerator.num_processes > 1 else own)
        # Each process scores the pairs with its own prompts, which its own completions share.
        mine = [pair for pair in pairs if pair["process"] == process]
        with self.runtime.locally():
            log_ratio = self._log_ratio(mine, examples)
        log_ratio = accelerator.reduce(log_ratio, reduction="sum")
        if not pairs and not self._has_warned:
            self._has_warned = True
            self.runtime.say(
                "KTO baseline: all examples of a step have the same prompt, so it has no mismatched pairs and z is 0. Use "
                "more examples per step (per_device_train_batch_size × gradient_accumulation_steps)."
            )
        return (log_ratio / max(len(pairs), 1)).clamp(min=0).float()

    def _log_ratio(self, pairs: list[dict], examples: list[dict]) -> torch.Tensor:
        """Σ log π/π_ref over the completions of `pairs`, a scalar, without gradient.

        The reference scores matched and mismatched completions of a prompt in one pass, in which they share the prompt.
        The policy does not: no loss can be computed before z is known. A shared pass would have to hold the whole step in
        one row, keep the activations of mismatched completions, and apply dropout to them.
        """
        own = [] if self.precomputed else examples
        sequences = [_sequence(example) for example in (*pairs, *own)]
        reference = self._reference_logps(sequences)
        for example, logps in zip(own, reference[len(pairs) :], strict=True):
            example["ref_logps"] = logps
        total = torch.tensor(-sum(reference[: len(pairs)]), dtype=torch.float64, device=self.runtime.device)
        with no_grad_eval(self.runtime.model), self.runtime.autocast():
            for row in self.rows.cut(sequences[: len(pairs)]):
                total += forward.run(self.runtime.model, self.rows.collate(row)).per_token_logps.sum()
        return total

    def _reference_logps(self, sequences: list[dict]) -> list[float]:
        """Reference log-probability of every completion."""
        found: dict[int, float] = {}
        for row in self.rows.cut([{**sequence, "number": i} for i, sequence in enumerate(sequences)]):
            with self.runtime.autocast():
                fields = self.references.score(self.rows.collate(row))
            logps = fields.per_token_logps.sum(dim=1).tolist()
            found.update(zip((sequence["number"] for sequence in row), logps, strict=True))
        return [found[i] for i in range(len(sequences))]


def _sequence(example: dict) -> dict:
    return {"prompt_ids": example["prompt_ids"], "completion_ids": example["completion_ids"], "label": False}
