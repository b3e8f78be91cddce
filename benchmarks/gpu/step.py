"""Measure an optimizer step of a recipe: memory against the plan, time, share of the card's rate."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.gpu import card, roofline, training
from benchmarks.gpu.bench import Bench
from trl_ext import planner
from trl_ext.batching import attention, kernels
from trl_ext.planner import request
from trl_ext.planner.memory import GIB
from trl_ext.planner.vram_plan import VramPlan

OVERHEADS = ("allocator", "CUDA context")


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `step`.

    Args:
        bench: The case.
        rate: The card's measured rate of matrix products, TFLOP/s.
    """
    steps = training.WARM_UP + training.MEASURED
    with training.trainer(bench, max_steps=steps) as (trainer, recipe):
        run = training.run(trainer)
        rows = chosen_rows(trainer) if recipe.method.cuts_rows else {"attention": implementation(trainer.model)}
        choice = trainer.longest_row if recipe.method.cuts_rows else None
        rows["examples"] = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        totals = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    shape = request.read(recipe).shape
    seconds = statistics.median(run.times)
    computed = statistics.mean(tally.with_gradient for tally in run.tallies)
    tflop = statistics.mean(roofline.flop(shape, tally) for tally in run.tallies) / 1e12
    real = (totals[-1] - totals[training.WARM_UP - 1]) / training.MEASURED
    time = sum(run.times)
    return {
        **planned(planner.plan(recipe, vram=card.VRAM, choice=choice)),
        **free_choice(planner.plan(recipe, vram=card.VRAM)),
        **run.peak._asdict(),
        "seconds": seconds,
        "steps": run.times,
        "real_tokens": real,
        "computed_tokens": computed,
        "tokens_per_second": real * training.MEASURED / time,
        "computed_tokens_per_second": computed * training.MEASURED / time,
        "roofline_share": tflop * training.MEASURED / time / rate,
        "tflop": tflop,
        "row_tokens": None,
        "longest_row": max(tally.longest for tally in run.tallies),
        "checkpointed_layers": None,
        "layers": shape.layers,
        **rows,
        "lengths": bench.case.lengths,
        "said": run.said,
    }


def planned(plan: VramPlan) -> dict[str, Any]:
    """Planned memory in GiB."""
    parts = {
        is_static: sum(t.bytes for t in plan.terms if t.is_static == is_static and t.name not in OVERHEADS)
        for is_static in (True, False)
    }
    return {
        "planned_gib": plan.peak / GIB,
        "planned_static_gib": parts[True] / GIB,
        "planned_activations_gib": parts[False] / GIB,
    }


def free_choice(plan: VramPlan) -> dict[str, Any]:
    """Row length and checkpointed layers that the planner chooses."""
    return {"planned_row_tokens": plan.row_tokens, "planned_checkpointed_layers": plan.checkpointed_layers}


def chosen_rows(trainer: Any) -> dict[str, Any]:
    """Row length and checkpointed layers that a trainer chose."""
    return {
        "attention": implementation(trainer.model),
        "row_tokens": trainer.row_tokens,
        "checkpointed_layers": trainer.longest_row[1],
    }


def implementation(model: Any) -> str:
    """Attention of a model: the kernel of packed rows, or the implementation of padded rows."""
    name = model.config._attn_implementation
    usual = attention.ordinary(name)
    if name == usual:
        return f"padded rows, {usual}"
    return kernels.IN_WORDS[name.removeprefix(f"{attention.PREFIX}_").partition("_")[0]]
