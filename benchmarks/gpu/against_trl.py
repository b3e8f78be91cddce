"""Compare the time of a step with TRL's own trainer: same examples, adapter, optimizer and base.

Both trainers take turns twice, a few steps each. TRL runs the step in micro-batches of as many pairs as fit, up to four,
and checkpoints all layers, which is its default. Its base is in 4 bits and bfloat16 like ours, which is not its default.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from benchmarks.gpu import cases, training
from benchmarks.gpu.bench import Bench
from trl_ext.build import dataset
from trl_ext.build.dtypes import precision
from trl_ext.build.model import load_policy
from trl_ext.build.tokenizer import load_tokenizer
from trl_ext.recipe import Recipe
from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import is_out_of_memory

TRL = {"paired": (DPOTrainer, DPOConfig), "unpaired": (KTOTrainer, KTOConfig)}
MICRO_BATCHES = (4, 2, 1)
"""Pairs per forward pass of TRL's trainer; for labelled completions twice as many completions."""
ROUNDS, WARM_UP, MEASURED = 2, 1, 2


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `trl`."""
    values = {"max_steps": WARM_UP + MEASURED, "train_sampling_strategy": "sequential"}
    recipe = bench.case.settled(bench.folder, bench.data, **values)
    step = recipe.effective("per_device_train_batch_size") * recipe.effective("gradient_accumulation_steps")
    did_not_fit, runs, ours = [], [], []
    sizes = [size * (1 if recipe.paired else 2) for size in MICRO_BATCHES]
    for size in [size for size in sizes if step % size == 0]:
        if (found := _if_it_fits(bench, recipe, size, step // size)) is not None:
            runs.append(found)
            break
        did_not_fit.append(size)
    if not runs:
        why = f"TRL's trainer runs out of memory with micro-batches of {' and '.join(map(str, did_not_fit))} examples."
        return {"fits": False, "why": why, "micro_batch": None, "did_not_fit": did_not_fit}
    for number in range(ROUNDS):
        ours.append(_run_ours(bench, values))
        if number + 1 < ROUNDS:
            runs.append(_run(bench, recipe, size, step // size))
    seconds, our_seconds = ([time for run in each for time in run.times] for each in (runs, ours))
    peak, our_peak = runs[0].peak, ours[0].peak
    return {
        "micro_batch": size,
        "did_not_fit": did_not_fit,
        "seconds": statistics.median(seconds),
        "our_seconds": statistics.median(our_seconds),
        "ratio": sum(seconds) / sum(our_seconds),
        "allocated_gib": peak.allocated_gib,
        "reserved_gib": peak.reserved_gib,
        "our_allocated_gib": our_peak.allocated_gib,
        "our_reserved_gib": our_peak.reserved_gib,
        "loss": runs[0].losses[-1],
        "our_loss": ours[0].losses[-1],
        "lengths": bench.case.lengths,
    }


def _run_ours(bench: Bench, values: dict[str, Any]) -> training.Run:
    with training.trainer(bench, **values) as (trainer, _):
        return training.run(trainer, WARM_UP)


def _if_it_fits(bench: Bench, recipe: Recipe, size: int, count: int) -> training.Run | None:
    try:
        return _run(bench, recipe, size, count)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release()  # outside the handler: its traceback keeps the failed step's activations alive
    return None


def _run(bench: Bench, recipe: Recipe, size: int, count: int) -> training.Run:
    with training.fresh(bench) as (place, held):
        held.append(build_trl(bench, recipe, size, count, place))
        return training.run(held[0], WARM_UP)


def build_trl(bench: Bench, recipe: Recipe, size: int, count: int, place: Path) -> Any:
    """Build TRL's trainer with a recipe's settings; a step has `count` micro-batches of `size` examples."""
    cls, config = TRL[recipe.kind]
    chosen = precision(recipe)
    known = {field.name for field in dataclasses.fields(config)}
    values = recipe.sections()["training"]
    values |= {key: value for key, value in recipe.loss_kwargs.items() if value != "auto"}
    values = {key: value for key, value in values.items() if key in known} | chosen.training
    values |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": count}
    values |= {"loss_type": cases.trl_loss(bench.case), "output_dir": str(place), "report_to": "none"}
    args = config(**values)
    given = dataset.read(recipe, args, [])
    bench.base.is_classifier = False
    model, adapter = load_policy(recipe, args, chosen, [], bench.base)
    return cls(
        model=model,
        args=args,
        train_dataset=given.train,
        processing_class=load_tokenizer(recipe),
        **adapter,
    )
