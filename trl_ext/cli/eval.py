"""`trl-ext eval`: how a run ranks held-out preferences, and how far it went from what it began with."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl_ext.cli.arguments import overrides, writable_folder
from trl_ext.recipe.data_checks import dataset_path
from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "measure a run on held-out preferences: accuracy, margin and KL, beside its base"
EXAMPLES = """examples:
  trl-ext eval runs/demo-dpo                                  the rows the run held out, or its data's test split
  trl-ext eval runs/demo-dpo/checkpoint-40 --limit 200
  trl-ext eval recipes/demo.yaml                              the latest run of a recipe
  trl-ext eval runs/demo-dpo --dataset pairs.jsonl            other data, of any format a recipe can name
  trl-ext eval runs/demo-dpo --dataset org/pairs --split validation --json

Accuracy is beta-free: how often log π(chosen) − log π_ref(chosen) is above that of rejected. exit code: 0, or 2 for
something to put right"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN or RECIPE", type=Path, help="a run's directory, or a YAML file")
    parser.add_argument("--dataset", metavar="NAME or FILE", help="pairs or labelled answers (default: the run's own)")
    parser.add_argument("--split", metavar="S", help="of the data (default: what the run held out, or `test`)")
    parser.add_argument("--dataset_columns", metavar="'{prompt: …}'", help="columns of the data, as in a recipe")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only")
    parser.add_argument(
        "--samples",
        type=int,
        default=256,
        metavar="N",
        help="completions to sample for the KL, each of another prompt (256)",
    )
    parser.add_argument("--max_new_tokens", type=int, default=128, metavar="N", help="of a sample, at most (128)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (0)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the JSON goes (the run's eval-<dataset>.json)"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON, and nothing else")


def run(args: argparse.Namespace) -> int:
    columns = _check(args)
    from trl_ext.runs import finished
    from trl_ext.runs.run import quieten
    from trl_ext.support import atomic

    directory = finished.directory_of(args.run)
    finished.check(directory)
    writable_folder("output", args.output.parent if args.output else directory)
    console = terminal.console(stderr=args.json)
    # Only the JSON goes where a script reads it.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        quieten(finished.recipe_at(directory, needs_data=args.dataset is None))  # what is imported next
        from trl_ext.evaluation import report
        from trl_ext.evaluation.evaluate import evaluate_run
        from trl_ext.evaluation.rows import RowChoice
        from trl_ext.evaluation.samples import Sampling

        record = evaluate_run(
            directory,
            RowChoice(args.dataset, args.split, columns, args.limit),
            Sampling(args.samples, args.max_new_tokens, args.seed),
            log=lambda text: console.print(text, markup=False),
            progress=lambda scored, total: watched(scored, total, console),
        )
    path = args.output or directory / f"eval-{record['data']['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, record)
    if args.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return 0
    report.show(console, record)
    console.print(f"record   {path}")
    return 0


def _check(args: argparse.Namespace) -> dict[str, str] | None:
    for name, least in (("limit", 1), ("samples", 0), ("max_new_tokens", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"`--{name}` is {value}: give a number from {least} up.")
    if args.dataset is not None and (problem := dataset_path(args.dataset)) is not None:
        raise UserError(f"`--dataset` {problem}")
    if args.output is not None and args.output.is_dir():
        raise UserError(f"`--output` is the folder {args.output}: name a file in it.")
    if args.dataset_columns is None:
        return None
    columns = overrides(["--columns", args.dataset_columns])["columns"]
    if not isinstance(columns, dict):
        raise UserError(f"`--dataset_columns` is {args.dataset_columns!r}: write it as '{{prompt: question, …}}'.")
    return columns


def watched(scored: Iterable, total: int, console: Any) -> Iterable:
    from rich.progress import track

    return track(scored, "scoring", total, console=console, transient=True, disable=not console.is_terminal)
