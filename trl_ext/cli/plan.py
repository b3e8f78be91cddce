"""`trl-ext plan`: whether a recipe fits a card, what takes the memory, and how long a step takes at least."""

import argparse
import json
import math
from typing import Any

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
    from trl_ext.planner import plan, report

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
    report.show(loaded, planned, measured)
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
