"""`trl-ext eval RUN --judge SOURCE`: let judges compare the answers of a run with those of its base."""

import argparse
import contextlib
import sys

from trl_ext.cli import judging
from trl_ext.cli.values import writable_folder
from trl_ext.support import encoding, terminal
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import LoggedConsole, log


def run(args: argparse.Namespace) -> int:
    """Judge a run, print the result, and leave it in the run's directory."""
    judges, prompts = judging.choices(args), judging.prompts(args, args.dataset_columns)
    from trl_ext.runs import finished, libraries
    from trl_ext.runs.signals import Interrupted
    from trl_ext.support import atomic
    from trl_ext.support.progress import Progress

    directory = finished.directory_of(args.run)
    finished.check(directory)
    writable_folder("output", directory)  # answers are kept there
    if args.output is not None:
        writable_folder("output", args.output.parent)
    console = terminal.console(stderr=args.json)
    logged, progress = LoggedConsole(console), Progress(console)
    with log.open(), contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        libraries.configure(finished.recipe_at(directory, needs_data=prompts.file is None))  # before the imports below
        from trl_ext.evaluation import judged, judged_report
        from trl_ext.evaluation.run_page.update import refresh

        try:
            records = judged.judge_run(
                directory,
                judges,
                prompts,
                judging.sampling(args, args.seed),
                log=lambda text: logged.print(text, markup=False),
                watched=progress.watch,
            )
        except (KeyboardInterrupt, UserError) as error:
            if progress.done:
                refresh(directory, lambda text: console.print(text, markup=False))
            if isinstance(error, UserError):
                raise
            raise Interrupted(judging.kept(progress)) from None
    if args.output is not None:
        atomic.write_json(args.output, records if len(records) > 1 else records[0])
    page = refresh(directory, lambda text: console.print(text, markup=False))
    if args.json:
        print(encoding.as_json(records if len(records) > 1 else records[0], indent=2))
        return 0
    judged_report.show(logged, records)
    for name in judged.file_names([record["judge"] for record in records]):
        logged.print(f"record   {directory / name}", markup=False)
    logged.print(f"answers  {directory / records[0]['answers']}", markup=False)
    if page is not None:
        logged.print(f"page     {page}", markup=False)
    return 0
