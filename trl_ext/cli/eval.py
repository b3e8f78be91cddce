"""`trl-ext eval`: how a run ranks held-out preferences, and how far it went from what it began with."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl_ext.cli import tables
from trl_ext.cli.arguments import overrides, writable_folder
from trl_ext.recipe.data_checks import dataset_path
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

LABELS = {"accuracy": "accuracy", "margin": "margin, nats", "area_under_curve": "AUC"}


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
    from rich.console import Console

    console = Console(highlight=False, stderr=args.json)
    # Only the JSON goes where a script reads it.
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        quieten(finished.recipe_at(directory, needs_data=args.dataset is None))  # what is imported next
        from trl_ext.evaluation import evaluate, rows

        record = evaluate.evaluate(
            directory,
            rows.Asked(args.dataset, args.split, columns, args.limit),
            evaluate.Sampling(args.samples, args.max_new_tokens, args.seed),
            say=lambda text: console.print(text, soft_wrap=True, markup=False),
            watch=lambda scored, total: watched(scored, total, console),
        )
    path = args.output or directory / f"eval-{record['data']['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, record)
    if args.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return 0
    _show(console, record)
    console.print(f"record   {path}", soft_wrap=True)
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


def _show(console: Any, record: dict[str, Any]) -> None:
    data = record["data"]
    unit = "pairs" if "pairs" in data else "answers"
    left_out = f"; {data['too_long']:,} left out as too long" if data["too_long"] else ""
    console.print(
        f"\n[bold]{record['run']}[/bold] on {data[unit]:,} {unit} of {data['name']}{left_out}.", soft_wrap=True
    )
    console.print(f"The base is {record['reference']}.", soft_wrap=True)
    console.print(f"\n{'Chosen over rejected' if unit == 'pairs' else 'Desirable over undesirable'}, by")
    console.print(_ranking(record["ranking"]))
    console.print(_completions(record))
    if sampled := record.get("sampled"):
        kl, ended = sampled["kl"], sampled["ended"]
        console.print(
            f"KL(tuned‖base) of {sampled['n']:,} samples, nats per completion: {_shown(kl['k1'])} by k1, {_shown(kl['k3'])} by "
            f"k3. Within {sampled['max_new_tokens']:,} tokens {ended['tuned']['value']:.0%} ended, of the base's "
            f"{ended['base']['value']:.0%}.",
            soft_wrap=True,
        )
    console.print(f"Intervals: {record['intervals']}.", style="dim", soft_wrap=True)


def _ranking(ranking: dict[str, Any]) -> Any:
    by = {"log_ratio": "log-ratio", "tuned": "log-prob, tuned", "base": "log-prob, base"}
    table = tables.table("", *by.values())
    for name in ranking["log_ratio"]:
        label = "  per token" if name.endswith("per_token") else LABELS[name]
        digits = 2 if name == "margin" else 3
        table.add_row(label, *(_shown(ranking[key][name], digits) for key in by))
    return table


def _completions(record: dict[str, Any]) -> Any:
    table = tables.table("completions", "log-ratio, nats", "tokens")
    kinds = {name: (record["log_ratio"][name], record["tokens"][name]) for name in record["log_ratio"]}
    if sampled := record.get("sampled"):
        kinds |= {
            f"sampled, {name}": (sampled["log_ratio"][name], sampled["tokens"][name]) for name in sampled["tokens"]
        }
    for name, (log_ratio, tokens) in kinds.items():
        table.add_row(name, _shown(log_ratio), _shown(tokens, 1))
    return table


def _shown(estimate: dict[str, float] | None, digits: int = 2) -> str:
    from trl_ext.evaluation.intervals import shown

    return shown(estimate, f"{{:.{digits}f}}")
