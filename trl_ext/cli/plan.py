"""`trl-ext plan`: whether a recipe fits a card, what takes the memory, and how long a step takes at least."""

import argparse
import json
import math
from typing import Any

from trl_ext.cli import tables
from trl_ext.cli.arguments import overrides, own
from trl_ext.support.errors import UserError

HELP = "say whether a recipe fits a card, before anything is downloaded"
EXAMPLES = """examples:
  trl-ext plan recipes/llama-3.1-8b-ipo.yaml
  trl-ext plan recipes/qwen3-14b-dpo-zh-en.yaml --vram 16 --max_length 512
  trl-ext plan recipes/demo.yaml --exact          the same from a training step on fake tensors
  trl-ext plan --calibrate runs/a runs/b          fit what lies beyond arithmetic to measured runs
  trl-ext plan --calibrate benchmarks/results/gpu-nvidia-h200.json

Any key of a recipe can follow, as for `run`. exit code: 0 whether it fits or not, 2 if the recipe is not in order"""

OWN = {"vram": 24.0, "tokens": None, "examples": None, "json": False, "exact": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file")
    parser.add_argument("--vram", metavar="GIB", help="memory of the card (24)")
    parser.add_argument("--tokens", metavar="N", help="mean tokens of an example, for the times")
    parser.add_argument("--examples", metavar="N", help="examples of an epoch, for the times")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("--exact", action="store_true", help="also run a training step on fake tensors (a minute)")
    parser.add_argument(
        "--calibrate",
        metavar="RUN",
        nargs="+",
        help="fit the arithmetic to the plan.json of runs, or to a benchmark's results",
    )
    parser.add_argument(
        "overrides", metavar="--key value", nargs=argparse.REMAINDER, help="any key of a recipe; wins over the file"
    )


def run(args: argparse.Namespace) -> int:
    if args.calibrate:
        return _calibrate(args.calibrate)
    values = overrides(args.overrides)
    given = own(args, values, OWN)
    if args.recipe is None:
        raise UserError("Name a recipe: `trl-ext plan recipes/demo.yaml`.")
    from trl_ext import recipe
    from trl_ext.planner import plan

    loaded = recipe.load(args.recipe, values)
    planned = plan(
        loaded,
        vram=_number("vram", given["vram"]),
        mean_tokens=None if given["tokens"] is None else int(_number("tokens", given["tokens"])),
        examples=None if given["examples"] is None else int(_number("examples", given["examples"])),
    )
    measured = _dry_run(loaded, planned) if given["exact"] else None
    if given["json"]:
        print(json.dumps(planned.to_dict() | ({"exact": measured} if measured else {}), indent=2, ensure_ascii=False))
        return 0
    _show(loaded, planned, measured)
    return 0


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        unit = "GiB, for instance 24" if name == "vram" else "a number of them, for instance 1000"
        raise UserError(f"`--{name}` is {value!r}: give {unit}.")
    return number


def _calibrate(runs: list[str]) -> int:
    from trl_ext.planner import calibration
    from trl_ext.planner.memory import GIB

    points = calibration.points(runs)
    before, now = calibration.load(), calibration.fit(points)
    for point in points:
        print(
            f"{point.name}: measured {point.measured / GIB:.2f} GiB, planned {point.planned(before) / GIB:.2f} "
            f"({point.error(before):+.1%}) before and {point.planned(now) / GIB:.2f} ({point.error(now):+.1%}) now"
        )
    kept = calibration.save(now)
    print(
        f"allocator {before.allocator:.3f} → {now.allocator:.3f}, context {before.context / GIB:.2f} → "
        f"{now.context / GIB:.2f} GiB: kept in {kept}"
    )
    return 0


def _dry_run(recipe: Any, planned: Any) -> dict[str, float]:
    """Bytes of live tensors at the planned choice: from the arithmetic, and from a step on fake tensors."""
    from trl_ext.planner import exact, memory, request

    asked = request.read(recipe)
    found = exact.run(
        asked.config,
        asked.row(planned.row_tokens),
        asked.storage,
        rank=asked.shape.adapter.rank if asked.shape.adapter else None,
        targets=asked.targets,
        checkpointed_layers=planned.checkpointed_layers,
    )
    optimizer = memory.training_state(asked.shape, asked.storage)["optimizer"]
    arithmetic = memory.peak(asked.shape, found.row, asked.storage, planned.checkpointed_layers)
    return {"tokens": found.row.tokens, "arithmetic": arithmetic, "dry_run": found.peak + optimizer}


def _show(recipe: Any, planned: Any, measured: dict[str, float] | None) -> None:
    from rich.console import Console

    from trl_ext.planner.memory import GIB

    console = Console(highlight=False)
    console.print(f"[bold]{_verdict(recipe, planned)}[/bold]", soft_wrap=True)
    console.print(
        f"{planned.model}: {planned.parameters:,} weights, {planned.quantised:,} of them quantised, "
        f"{planned.trained:,} trained.",
        soft_wrap=True,
    )
    console.print(
        f"The peak is reached at {planned.moment}, with rows of {planned.row_tokens:,} tokens and {_recomputed(planned)}.",
        soft_wrap=True,
    )
    console.print(_terms(planned))
    console.print(_limits(planned))
    if measured:
        ratio = measured["arithmetic"] / measured["dry_run"]
        console.print(
            f"dry run  {measured['dry_run'] / GIB:.3f} GiB of live tensors on fake ones, {measured['tokens']:,} tokens; the "
            f"arithmetic says {measured['arithmetic'] / GIB:.3f} ({ratio - 1:+.2%})",
            soft_wrap=True,
        )
    if planned.times:
        console.print(_times(planned))
        console.print(_about_times(planned), style="dim", soft_wrap=True)
    for note in (*planned.notes, *recipe.notes):
        console.print(f"Note: {note}", soft_wrap=True)


def _verdict(recipe: Any, planned: Any) -> str:
    from trl_ext.planner.memory import GIB

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
    from trl_ext.planner.memory import GIB

    table = tables.table("at the peak", "GiB")
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
    table = tables.table("with every layer recomputed, at most", "")
    table.add_row("tokens of a row", f"{planned.largest_row:,}" if planned.largest_row else "none fits")
    table.add_row("tokens of a sequence", f"{planned.longest_sequence:,}" if planned.longest_sequence else "none fits")
    if planned.largest_rank is not None:
        table.add_row("LoRA rank", f"{planned.largest_rank:,}" if planned.largest_rank else "none fits")
    for tokens, count in planned.checkpointing.items():
        text = "does not fit" if count is None else f"{count} of {planned.layers}"
        table.add_row(f"layers to recompute for rows of {tokens:,}", text)
    return table


def _times(planned: Any) -> Any:
    table = tables.table("at least", "step", "epoch", "rows", "layers recomputed")
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
