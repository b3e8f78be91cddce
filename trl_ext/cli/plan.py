"""`trl-ext plan`: estimate the peak GPU memory of a recipe, its parts, and the time of a step."""

import argparse
import math
from typing import Any

from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.cli.values import number, whole_number
from trl_ext.support import encoding
from trl_ext.support.errors import UserError

HELP = "estimate peak GPU memory and step time"
EXAMPLES = """examples:
  trl-ext plan llama-3.1-8b-ipo
  trl-ext plan qwen3-14b-dpo-zh-en --vram 16 --max_length 512
  trl-ext plan demo --exact
  trl-ext plan --calibrate runs/a runs/b
  trl-ext plan --calibrate benchmarks/results/gpu-nvidia-h200.json

Nothing is downloaded.

exit code: 0 whether the recipe fits or not, 2 on a user error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, is_optional=True)
    parser.add_argument(
        "--vram",
        type=number("GiB, for instance 24", lambda value: 0 < value < math.inf),
        default=24.0,
        metavar="GIB",
        help="GPU memory in GiB (default: 24)",
    )
    parser.add_argument(
        "--tokens", type=whole_number(1), metavar="TOKENS", help="mean tokens per example, for the time estimates"
    )
    parser.add_argument(
        "--examples", type=whole_number(1), metavar="EXAMPLES", help="examples per epoch, for the time estimates"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--exact", action="store_true", help="check the estimate with a training step on fake tensors (takes a minute)"
    )
    parser.add_argument(
        "--calibrate",
        metavar="RUN",
        nargs="+",
        help="fit the estimate to measured runs (their plan.json) or to the results of a benchmark",
    )


def run(args: argparse.Namespace) -> int:
    if args.calibrate:
        return _calibrate(args.calibrate)
    if args.recipe is None:
        raise UserError("Give a recipe: `trl-ext plan demo`.")
    from trl_ext import recipe
    from trl_ext.planner import plan, report

    loaded = recipe.load(args.recipe, args.recipe_keys)
    planned = plan(loaded, vram=args.vram, mean_tokens=args.tokens, examples=args.examples)
    exact = _dry_run(loaded, planned) if args.exact else None
    if args.json:
        print(encoding.as_json(planned.to_dict() | ({"exact": exact} if exact else {}), indent=2))
        return 0
    report.show(loaded, planned, exact)
    return 0


def _calibrate(runs: list[str]) -> int:
    from trl_ext.planner import calibration, report

    points = calibration.points(runs)
    before, now = calibration.load(), calibration.fit(points)
    report.show_calibration(points, before, now, calibration.save(now))
    return 0


def _dry_run(recipe: Any, planned: Any) -> dict[str, float]:
    from trl_ext.planner import dry_run

    return dry_run.compare(recipe, planned)
