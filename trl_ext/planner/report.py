"""Print a plan: the verdict, the terms of the peak, the limits, and lower bounds on times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.planner.calibration import Point
from trl_ext.planner.cards import Chosen
from trl_ext.planner.fitting import Overhead
from trl_ext.planner.measured import Measured
from trl_ext.planner.memory import GIB
from trl_ext.planner.schedule import Schedule
from trl_ext.planner.vram_plan import VramPlan
from trl_ext.support import terminal
from trl_ext.support.counts import count


class Outlook(NamedTuple):
    """What is known of the run itself.

    Attributes:
        card: The card it is planned for.
        schedule: Its steps and tokens; `None` if the number of examples is not known.
        rates: Measured rates by device.
        data: Sentences on how the data was measured.
    """

    card: Chosen
    schedule: Schedule | None
    rates: dict[str, Measured]
    data: tuple[str, ...]

    def times(self) -> dict[str, float]:
        """Seconds of the run on each device where a rate is measured."""
        if self.schedule is None or self.schedule.tokens is None:
            return {}
        return {device: self.schedule.tokens / rate.tokens_per_second for device, rate in self.rates.items()}


def show(recipe: Any, planned: VramPlan, dry_run: dict[str, float] | None, outlook: Outlook) -> None:
    """Print a plan.

    Args:
        recipe: The planned recipe.
        planned: Its plan.
        dry_run: The result of `trl_ext.planner.dry_run.compare`, if one was run.
        outlook: Length and time of the run.
    """
    console = terminal.console(markup=False)
    console.print(verdict(recipe.name, planned), style="bold")
    console.print(
        f"{planned.model}: {planned.parameters:,} parameters, {planned.quantised:,} of them quantised, {planned.trained:,} "
        "trained."
    )
    console.print(
        f"The peak is reached during {planned.moment}, with row_tokens {planned.row_tokens:,} and {_checkpointing(planned)}."
    )
    for sentence in duration(recipe, outlook):
        console.print(sentence)
    console.print(_terms(planned))
    console.print(_limits(planned))
    if dry_run:
        console.print(
            f"dry run  {dry_run['dry_run'] / GIB:.3f} GiB of live tensors in a step on fake tensors with "
            f"{dry_run['tokens']:,} tokens. The formulas give {dry_run['arithmetic'] / GIB:.3f} GiB "
            f"({dry_run['arithmetic'] / dry_run['dry_run'] - 1:+.2%})."
        )
    if planned.times:
        is_measured = outlook.schedule is not None and outlook.schedule.tokens is not None
        console.print(_times(planned))
        console.print(_about_times(planned, is_measured), style="dim")
    for note in (*planned.notes, *recipe.notes):
        console.print(f"Note: {note}")


def duration(recipe: Any, outlook: Outlook) -> list[str]:
    """Sentences on the steps of the run, on its data, and on when it ends where its rate is measured."""
    found, run = [], outlook.schedule
    if run is not None:
        tokens = ""
        if run.tokens is not None:
            most = "up to" if recipe.method.samples_completions else "about"
            tokens = f", {most} {float(f'{run.tokens:.3g}'):,.0f} tokens"
        epochs = f"{run.epochs:.3g} epoch{'s' * (run.epochs != 1)}"
        found.append(f"The run has {run.steps:,} steps: {epochs} of {run.examples:,} {recipe.method.unit}{tokens}.")
    found += outlook.data
    times = outlook.times()
    for device, seconds in times.items():
        rate, end = outlook.rates[device], datetime.now() + timedelta(seconds=seconds)
        found.append(
            f"On {device} the run takes about {_duration(seconds)}, at the {rate.tokens_per_second:,.0f} tokens per second that "
            f"{rate.run} measured. Started now, it would end at {end:%H:%M} on {end:%d %B}."
        )
    if not any(outlook.card.is_device(device) for device in times):
        where = f"on an {outlook.card.title}" if outlook.card.is_named else "on a graphics card"
        found.append(
            f"No run in runs/ has measured this model {where}, so how long the run takes there is not known. The times below "
            "are lower bounds."
        )
    return found


def facts(outlook: Outlook) -> dict[str, Any]:
    """The schedule of a run, and its seconds on each device where a rate is measured, for JSON."""
    run = outlook.schedule
    return {"schedule": None if run is None else run._asdict(), "seconds": outlook.times()}


def show_calibration(points: Sequence[Point], before: Overhead, now: Overhead, file: Path) -> None:
    """Print each measured peak beside the plan before and after a calibration, and the fitted coefficients."""
    console = terminal.console(markup=False)
    for point in points:
        console.print(
            f"{point.name}: measured {point.measured / GIB:.2f} GiB; planned {point.planned(before) / GIB:.2f} GiB before "
            f"({point.error(before):+.1%}), {point.planned(now) / GIB:.2f} GiB now ({point.error(now):+.1%})"
        )
    console.print(
        f"Allocator factor {before.allocator:.3f} → {now.allocator:.3f}, CUDA context {before.context / GIB:.2f} → "
        f"{now.context / GIB:.2f} GiB. Saved in {file} for later plans."
    )


def verdict(name: str, planned: VramPlan) -> str:
    """Whether the recipe fits the card, and which flags make it fit."""
    peak, card = f"{planned.peak / GIB:.1f} GiB", f"a card with {planned.vram:g} GiB"
    usable = f"{planned.budget:g} GiB are usable"
    reserve = f"{planned.vram - planned.budget:g} GiB are kept free for a display and other programs"
    if planned.fits:
        return f"{name} fits {card}. Its peak is {peak}, and {usable} ({reserve})."
    if planned.is_tight:
        start = f"{name} fits {card} only if nothing else uses the card. Its peak is {peak}, and {usable} ({reserve})."
    else:
        start = f"{name} does not fit {card}. Its peak is at least {peak}, and {usable} ({reserve})."
    if planned.flags and planned.flags_suffice:
        return f"{start} To make it fit, add: {' '.join(planned.flags)}"
    return start if planned.is_tight else f"{start} No setting makes it fit: choose a smaller model."


def _terms(planned: VramPlan) -> Any:
    table = terminal.table("memory at the peak", "GiB")
    for term in planned.terms:
        if term.bytes >= 0.005 * GIB:
            table.add_row(term.name, f"{term.bytes / GIB:.2f}", style=None if term.is_static else "cyan")
    table.add_row("peak", f"{planned.peak / GIB:.2f}", style="bold")
    return table


def _checkpointing(planned: VramPlan) -> str:
    count, layers = planned.checkpointed_layers, planned.layers
    if not count:
        return "gradient checkpointing off"
    return f"gradient checkpointing of {f'all {layers}' if count == layers else f'{count} of {layers}'} layers"


def _limits(planned: VramPlan) -> Any:
    def largest(number: int) -> str:
        return f"{number:,}" if number else "does not fit"

    table = terminal.table("limits (as many layers checkpointed as allowed)", "maximum")
    table.add_row("tokens of a row (row_tokens)", largest(planned.largest_row))
    table.add_row("tokens of a sequence", largest(planned.longest_sequence))
    if planned.largest_rank is not None:
        table.add_row("LoRA rank", largest(planned.largest_rank))
    table.add_section()
    table.add_row("row_tokens", "layers to checkpoint", style="bold")
    for tokens, number in planned.checkpointing.items():
        table.add_row(f"{tokens:,}", "does not fit" if number is None else f"{number} of {planned.layers}")
    return table


def _times(planned: VramPlan) -> Any:
    table = terminal.table("minimum time", "step", "epoch", "row_tokens", "checkpointed layers")
    for time in planned.times:
        if time.step is None:
            table.add_row(time.card, "does not fit")
            continue
        epoch = "?" if time.epoch is None else _duration(time.epoch)
        layers = f"{time.checkpointed_layers} of {planned.layers}"
        table.add_row(time.card, _duration(time.step), epoch, f"{time.row_tokens:,}", layers)
    return table


def _about_times(planned: VramPlan, is_measured: bool) -> str:
    if planned.examples:
        epoch = f"an epoch has {count(planned.examples, 'examples')}"
    else:
        epoch = "the number of examples in an epoch is unknown (set it with `--examples N`)"
    assumed = "" if is_measured else ", an assumption (set it with `--tokens N`)"
    return (
        f"A step has {count(planned.examples_per_step, 'examples')} of {planned.mean_tokens:,.0f} tokens on average{assumed}, and "
        f"{epoch}. Times are lower bounds from the cards' published peak rates, not measurements: "
        "attention and small kernels take additional time."
    )


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
