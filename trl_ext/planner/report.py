"""Print a plan: the verdict, the terms of the peak, the limits, and the shortest times."""

from __future__ import annotations

from typing import Any

from trl_ext.planner.memory import GIB
from trl_ext.support import terminal


def show(recipe: Any, planned: Any, measured: dict[str, float] | None) -> None:
    console = terminal.console()
    console.print(f"[bold]{_verdict(recipe, planned)}[/bold]")
    console.print(
        f"{planned.model}: {planned.parameters:,} weights, {planned.quantised:,} of them quantised, "
        f"{planned.trained:,} trained.",
    )
    console.print(
        f"The peak is reached at {planned.moment}, with rows of {planned.row_tokens:,} tokens and {_recomputed(planned)}.",
    )
    console.print(_terms(planned))
    console.print(_limits(planned))
    if measured:
        ratio = measured["arithmetic"] / measured["dry_run"]
        console.print(
            f"dry run  {measured['dry_run'] / GIB:.3f} GiB of live tensors on fake ones, {measured['tokens']:,} tokens; the "
            f"arithmetic says {measured['arithmetic'] / GIB:.3f} ({ratio - 1:+.2%})",
        )
    if planned.times:
        console.print(_times(planned))
        console.print(_about_times(planned), style="dim")
    for note in (*planned.notes, *recipe.notes):
        console.print(f"Note: {note}")


def _verdict(recipe: Any, planned: Any) -> str:
    peak, card = f"{planned.peak / GIB:.1f} GiB", f"a card with {planned.vram:g} GiB"
    if planned.fits:
        return f"{recipe.name} fits {card}: {peak} of the {planned.budget:g} that a display leaves."
    if planned.is_tight:
        start = f"{recipe.name} takes {peak}: it fits {card} only if nothing else, not even a display, uses it."
    else:
        start = f"{recipe.name} does not fit {card}: the least it takes is {peak}, and {planned.budget:g} can be used."
    if planned.flags and planned.flags_suffice:
        return f"{start} Add: {' '.join(planned.flags)}"
    return f"{start} No setting helps: choose a smaller model." if not planned.is_tight else start


def _terms(planned: Any) -> Any:
    table = terminal.table("at the peak", "GiB")
    for term in planned.terms:
        if term.bytes >= 0.005 * GIB:
            table.add_row(term.name, f"{term.bytes / GIB:.2f}", style=None if term.is_static else "cyan")
    table.add_row("peak", f"{planned.peak / GIB:.2f}", style="bold")
    return table


def _recomputed(planned: Any) -> str:
    count, layers = planned.checkpointed_layers, planned.layers
    return {0: "no layer recomputed", layers: f"all {layers} layers recomputed"}.get(
        count, f"{count} of {layers} layers recomputed"
    )


def _limits(planned: Any) -> Any:
    table = terminal.table("with every layer recomputed, at most", "")
    table.add_row("tokens of a row", f"{planned.largest_row:,}" if planned.largest_row else "none fits")
    table.add_row("tokens of a sequence", f"{planned.longest_sequence:,}" if planned.longest_sequence else "none fits")
    if planned.largest_rank is not None:
        table.add_row("LoRA rank", f"{planned.largest_rank:,}" if planned.largest_rank else "none fits")
    for tokens, count in planned.checkpointing.items():
        text = "does not fit" if count is None else f"{count} of {planned.layers}"
        table.add_row(f"layers to recompute for rows of {tokens:,}", text)
    return table


def _times(planned: Any) -> Any:
    table = terminal.table("at least", "step", "epoch", "rows", "layers recomputed")
    for time in planned.times:
        if time.step is None:
            table.add_row(time.card, "does not fit")
            continue
        epoch = "?" if time.epoch is None else _duration(time.epoch)
        recomputed = f"{time.checkpointed_layers} of {planned.layers}"
        table.add_row(time.card, _duration(time.step), epoch, f"{time.row_tokens:,}", recomputed)
    return table


def _about_times(planned: Any) -> str:
    step = f"{planned.examples_per_step} examples of {planned.mean_tokens:,.0f} tokens"
    epoch = f"{planned.examples:,} examples" if planned.examples else "as many as the data has (`--examples N`)"
    return (
        f"A step is {step} (`--tokens N`), an epoch {epoch}. Times are floors from the cards' published peak rates, not "
        "measurements; attention and small kernels come on top. A reference is counted as in a first epoch."
    )


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
