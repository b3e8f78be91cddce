"""The arguments of `eval` about tasks of lm-evaluation-harness, and what `eval --tasks` does."""

import argparse
import contextlib
import sys

from trl_ext.cli.recipe_keys import Value
from trl_ext.cli.values import whole_number, writable_folder
from trl_ext.evaluation.tasks.choice import BATCH, TaskChoice
from trl_ext.support import encoding, terminal
from trl_ext.support.run_log import LoggedConsole, log


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add `--tasks` and what it is set up with; flags have the harness' own names."""
    group = parser.add_argument_group(
        "tasks",
        "--tasks measures what training cost in abilities: the base and the tuned model are asked the same tasks of "
        "lm-evaluation-harness (`pip install lm-eval`). Nothing else is evaluated then.",
    )
    add = group.add_argument
    add(
        "--tasks",
        action=Value,
        metavar="NAMES|FOLDER",
        help="tasks or groups of the harness (arc_easy,hellaswag), or a folder of task files. --limit is then the largest number of "
        "documents per task (default: all)",
    )
    add(
        "--num_fewshot",
        type=whole_number(0),
        metavar="N",
        help="solved examples before each question (default: as the task says)",
    )
    add(
        "--apply_chat_template",
        action="store_true",
        help="ask questions in the model's chat template (default: as plain text)",
    )
    add(
        "--batch_size",
        type=whole_number(1),
        metavar="N",
        help=f"requests in one forward pass; halved where memory runs out (default: {BATCH})",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the tasks, print the result, and leave it in the run's directory."""
    from trl_ext.checks import task_names
    from trl_ext.runs import finished, libraries
    from trl_ext.support.progress import Progress

    choice = TaskChoice(
        task_names.split(args.tasks), args.limit, args.num_fewshot, args.apply_chat_template, args.batch_size or BATCH
    )
    directory = finished.directory_of(args.run)
    finished.check(directory)
    writable_folder("output", args.output.parent if args.output else directory)
    console = terminal.console(stderr=args.json)
    logged = LoggedConsole(console)
    with log.open(), contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        libraries.configure(finished.recipe_at(directory, needs_data=False))  # before the imports below
        from trl_ext.evaluation.run_page.update import refresh
        from trl_ext.evaluation.tasks import evaluate, record, show

        path = args.output or directory / record.FILE
        progress = Progress(console)
        try:
            entries = evaluate.evaluate_run(
                directory, choice, lambda text: logged.print(text, markup=False), progress.watch, path
            )
        finally:
            page = (
                refresh(directory, lambda text: console.print(text, markup=False)) if progress.done else None
            )  # also after an interrupt: the file has the tasks before it
    if args.json:
        print(encoding.as_json({"tasks": entries, "limit": args.limit, "summary": record.summary(entries)}, indent=2))
        return 0
    logged.print(f"\n[bold]{directory}[/bold], compared with the model it was trained from.")
    show.show(logged, entries)
    logged.print(f"record   {path}", markup=False)
    if page is not None:
        logged.print(f"page     {page}", markup=False)
    return 0
