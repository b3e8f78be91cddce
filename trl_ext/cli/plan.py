"""`trl-ext plan`: estimate the peak GPU memory of a recipe, its parts, and the time of a step."""

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.cli.values import number, whole_number
from trl_ext.support import encoding
from trl_ext.support.errors import UserError

HELP = "estimate peak GPU memory and step time"
EXAMPLES = """examples:
  trl-ext plan llama-3.1-8b-ipo
  trl-ext plan qwen3-14b-dpo-zh-en --vram 16 --max_length 512
  trl-ext plan my.yaml --card 4090
  trl-ext plan demo --exact
  trl-ext plan --calibrate runs/a runs/b
  trl-ext plan --calibrate benchmarks/results/gpu-*.json   # written by `make bench-gpu`

Nothing is downloaded. If the data and the tokenizer are on this computer, steps and lengths are those of the data. Times are stated where an earlier run in runs/ has measured this model.

exit code: 0 whether the recipe fits or not, 2 on a user error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, is_optional=True)
    parser.add_argument(
        "--vram",
        type=number("GiB, for instance 24", lambda value: 0 < value < math.inf),
        metavar="GIB",
        help="GPU memory in GiB (default: 24)",
    )
    parser.add_argument("--card", metavar="NAME", help="graphics card whose memory is meant, for instance 4090")
    parser.add_argument(
        "--tokens", type=whole_number(1), metavar="TOKENS", help="mean tokens per example (default: measured)"
    )
    parser.add_argument(
        "--examples", type=whole_number(1), metavar="EXAMPLES", help="examples per epoch (default: counted)"
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
    from trl_ext.checks import sharding
    from trl_ext.planner import cards, measured, plan, report

    loaded = recipe.load(args.recipe, args.recipe_keys)
    card = cards.choose(args.card, args.vram if args.card or args.vram else cards.OTHERWISE)
    data = _data(loaded, args)
    planned = plan(
        loaded,
        vram=card.memory,
        mean_tokens=args.tokens or data.packed_tokens,
        examples=args.examples or data.examples,
    )
    sentences = (*data.sentences, *([sharding.PLAN] if sharding.is_on(loaded.get("fsdp")) else []))
    outlook = report.Outlook(card, data.schedule, measured.rates(loaded), sentences)
    exact = _dry_run(loaded, planned) if args.exact else None
    if args.json:
        facts = planned.to_dict() | {"run": report.facts(outlook)} | ({"exact": exact} if exact else {})
        print(encoding.as_json(facts, indent=2))
        return 0
    report.show(loaded, planned, exact, outlook)
    return 0


class Data(NamedTuple):
    """What is known of the data and of the length of the run.

    Attributes:
        examples: Examples of an epoch.
        packed_tokens: Mean tokens of an example with its prompt once.
        schedule: Steps, epochs and tokens of the run.
        sentences: How the data was measured, or why it was not.
    """

    examples: int | None = None
    packed_tokens: float | None = None
    schedule: Any = None
    sentences: tuple[str, ...] = ()


def _data(recipe: Any, args: argparse.Namespace) -> Data:
    """Measure the data of a recipe if it is on this computer, unless everything about it is given."""
    from trl_ext.build.at_hand import why_not

    why = None if args.tokens and args.examples else why_not(recipe)
    if why is not None:
        asked = " and ".join(f"`--{name} N`" for name in ("examples", "tokens") if getattr(args, name) is None)
        unmeasured = Data(sentences=(f"The data is not measured: {why}. Give {asked}.",))
        if not args.examples:
            return unmeasured
    from trl_ext.runs import libraries

    libraries.configure(recipe)  # before the imports below
    from trl_ext.build import data_size
    from trl_ext.build.config import training_config
    from trl_ext.build.dtypes import on_any_device

    config = training_config(recipe, Path("runs"), on_any_device())
    if why is not None or (args.tokens and args.examples):
        sentences = () if why is None else unmeasured.sentences
        return Data(schedule=data_size.schedule(recipe, config, args.examples, args.tokens), sentences=sentences)
    limit = None if recipe.method.samples_completions else recipe.effective("max_length")
    try:
        size = data_size.measure(recipe, config)
        run = data_size.schedule(
            recipe, config, args.examples or size.examples, args.tokens or size.counted_tokens(limit)
        )
    except UserError as error:
        return Data(sentences=(f"The data could not be measured: {error}",))
    return Data(size.examples, size.packed_tokens(limit), run, tuple(data_size.describe(size, recipe.method, limit)))


def _calibrate(runs: list[str]) -> int:
    from trl_ext.planner import calibration, report

    points = calibration.points(runs)
    before, now = calibration.load(), calibration.fit(points)
    report.show_calibration(points, before, now, calibration.save(now))
    return 0


def _dry_run(recipe: Any, planned: Any) -> dict[str, float]:
    from trl_ext.planner import dry_run

    return dry_run.compare(recipe, planned)
