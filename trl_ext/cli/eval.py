"""`trl-ext eval`: measure a run on held-out preferences, or let a judge compare its answers with those of its base."""

import argparse
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trl_ext.cli import eval_block, eval_judge, eval_tasks, judging
from trl_ext.cli.parser import Parser
from trl_ext.cli.recipe_keys import Value, add_run_or_recipe
from trl_ext.cli.sampling import ROWS, TOKENS, add_sampling
from trl_ext.cli.values import add_quiet, writable_folder
from trl_ext.support import encoding, terminal
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import LoggedConsole, log

HELP = "measure a trained model on held-out preferences, or judge its answers against the base's"
EXAMPLES = """examples:
  trl-ext eval runs/demo-dpo
  trl-ext eval runs/demo-dpo/checkpoint-40 --limit 200
  trl-ext eval demo
  trl-ext eval runs/demo-dpo --dataset pairs.jsonl
  trl-ext eval runs/demo-dpo --dataset org/pairs --split validation --json
  trl-ext eval runs/demo-dpo --judge sentiment
  trl-ext eval my-run --judge rewards.py:is_correct --prompts questions.jsonl
  trl-ext eval my-run --judge http://localhost:11434/v1 --judge_model qwen3:8b
  trl-ext eval my-run --tasks arc_easy,hellaswag --limit 500

For a recipe its latest finished run is used. Accuracy does not depend on beta: it is the share of pairs in which log π(chosen) − log π_ref(chosen) is above log π(rejected) − log π_ref(rejected).

If the run's recipe has an `evaluation`, this repeats it. A flag replaces one of its settings; --judge or --tasks evaluates that alone.

With --judge, the run and its base answer the same prompts, and the judge compares the answers. Answers and verdicts are kept: the same command continues after an interrupt, and samples and asks nothing twice.

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN|RECIPE [options]"
    add_run_or_recipe(parser)
    parser.add_argument(
        "--dataset", metavar="NAME|FILE", help="pairs or labelled completions (default: the data of the run)"
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="split of the data (default: the rows that the run held out from training, or `test`)",
    )
    parser.add_argument(
        "--dataset_columns",
        action=Value,
        metavar="'{prompt: COLUMN, ...}'",
        help="columns of the data, as in a recipe",
    )
    add_sampling(parser)
    parser.set_defaults(limit=None)  # a judge does not read it, and tasks have all documents
    judging.add_judging(parser)
    eval_tasks.add_tasks(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="seed of the sampling (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file for the results (default: eval-<dataset>.json, judged-<judge>.json or tasks.json, in the run)",
    )
    add_quiet(parser)
    eval_block.add_flag(parser)
    parser.set_defaults(default_of=parser.get_default)
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    return evaluate(args, terminal.console(stderr=args.json))


def evaluate(args: argparse.Namespace, console: Any) -> int:
    """Evaluate a run as its recipe and the flags say."""
    return eval_block.run(args, _evaluate_part, args.default_of, lambda text: console.print(text, markup=False))


def of_recipe(console: Any, directory: Path) -> None:
    """Evaluate a run as its recipe says: `trl-ext eval DIRECTORY`.

    Args:
        console: Prints statements.
        directory: Of the run.
    """
    parser = Parser(prog="trl-ext eval")
    add_arguments(parser)
    evaluate(parser.parse([str(directory)]), console)


def _evaluate_part(args: argparse.Namespace) -> int:
    """Evaluate what the arguments name: a judge, or held-out preferences."""
    _check(args)
    if args.tasks is not None:
        return eval_tasks.run(args)
    if args.judge:
        return eval_judge.run(args)
    from trl_ext.runs import finished, libraries
    from trl_ext.support import atomic

    directory = finished.directory_of(args.run)
    finished.check(directory)
    writable_folder("output", args.output.parent if args.output else directory)
    console = terminal.console(stderr=args.json)
    logged = LoggedConsole(console)
    # With `--json` only the JSON is printed to standard output.
    with log.open(), contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        libraries.configure(finished.recipe_at(directory, needs_data=args.dataset is None))  # before the imports below
        from trl_ext.evaluation import report
        from trl_ext.evaluation.evaluate import evaluate_run
        from trl_ext.evaluation.rows import RowChoice
        from trl_ext.evaluation.run_page.update import refresh
        from trl_ext.evaluation.samples import Sampling

        record = evaluate_run(
            directory,
            RowChoice(args.dataset, args.split, args.dataset_columns, args.limit or ROWS),
            Sampling(args.samples, args.max_new_tokens or TOKENS, args.seed),
            log=lambda text: logged.print(text, markup=False),
            progress=lambda scored, total: watched(scored, total, console),
            reward_names=args.reward_funcs,
        )
    path = args.output or directory / report.file_name(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, record)
    page = refresh(directory, lambda text: console.print(text, markup=False))
    if args.json:
        print(encoding.as_json(record, indent=2))
        return 0
    report.show(logged, record)
    logged.print(f"record   {path}", markup=False)
    if page is not None:
        logged.print(f"page     {page}", markup=False)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot be, and those that nothing reads.

    Raises:
        UserError: Names the flags.
    """
    from trl_ext.checks import evaluation_parts

    if args.tasks is not None and args.judge:
        raise UserError("`--judge` and `--tasks` were both given. Give each in a command of its own.")
    if args.output is not None and args.output.is_dir():
        raise UserError(f"`--output` is the folder {args.output}. Name a file in it.")
    if not isinstance(args.dataset_columns, dict | None):
        raise UserError(
            f"`--dataset_columns` is {args.dataset_columns!r}. Write a mapping: '{{prompt: question, ...}}'."
        )
    read = {key for keys in evaluation_parts.READS.values() for key in keys}
    given = {key: value for key, value in vars(args).items() if key in read and value != args.default_of(key)}
    if isinstance(given.get("reward_funcs"), str):
        given["reward_funcs"] = [given["reward_funcs"]]
    if problems := list(evaluation_parts.problems(given, lambda key: f"`--{key}`")):
        raise UserError(problems, about="the command line" if len(problems) > 1 else "")


def watched(items: Iterable, total: int, console: Any, what: str = "scoring") -> Iterable:
    """The items, with a progress bar on a terminal."""
    from rich.progress import track

    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)
