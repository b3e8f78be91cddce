"""Compare log-probabilities in packed and in padded rows, over many rows in the precision of the run."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu import training
from benchmarks.gpu.bench import Bench
from trl_ext.batching import proof
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import forward

EXAMPLES = 32
Scores = dict[tuple, float]


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `packed_vs_padded`."""
    found: dict[str, Any] = {}
    with training.trainer(bench, max_steps=1) as (trainer, _):
        trainer.add_callback(training.During(1, lambda: found.update(compare(trainer))))
        run = training.run(trainer, 0)
    if not found:
        reason = next((line for line in run.said if "packing is off" in line), "rows are padded")
        return {"fits": None, "why": f"Packed and padded rows cannot be compared: {reason}."}
    return found


def compare(trainer: Any) -> dict[str, Any]:
    """Log-probabilities of some examples in packed rows, padded rows and padded rows of one; empty if rows are not packed."""
    if not trainer.rows.is_packed:
        return {}
    examples = [trainer.train_dataset[i] for i in range(min(EXAMPLES, len(trainer.train_dataset)))]
    packed = score(trainer, trainer.rows.cut(examples))
    trainer.rows.is_packed = False
    try:
        padded = score(trainer, [[example] for example in examples])
        again = score(trainer, trainer.rows.cut(examples))
    finally:
        trainer.rows.is_packed = True
    difference = {key: abs(packed[key] - padded[key]) for key in padded}
    args = trainer.args
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    absolute, relative, per_root = proof.TOLERANCE[dtype]
    limits = {key: proof.allowed(padded[key], len(key[1]), dtype) for key in padded}
    return {
        "completions": len(padded),
        "largest_difference": max(difference.values()),
        "largest_relative": max(difference[key] / abs(padded[key]) for key in padded),
        "noise": max(abs(again[key] - padded[key]) for key in padded),
        "tolerance": f"{absolute:g} nats + {relative:g} of the padded log-probability + {per_root:g} nats × √tokens "
        f"({str(dtype).removeprefix('torch.')})",
        "within": all(difference[key] <= limits[key] for key in padded),
    }


def score(trainer: Any, rows: list[list[dict]]) -> Scores:
    """Log-probability of every completion of some rows, by prompt tokens and completion tokens."""
    found: Scores = {}
    with no_grad_eval(trainer.model), trainer.compute_loss_context_manager():
        for row in rows:
            fields = forward.run(trainer.model, trainer.rows.collate(row))
            keys = [(tuple(prompt), tuple(completion)) for prompt, completion in trainer.tokens.sequences(row)]
            found.update(zip(keys, fields.per_token_logps.double().sum(dim=1).tolist(), strict=True))
    return found
