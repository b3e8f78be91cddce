"""`trl-ext compare`: train several losses, betas and seeds on one base, or compare finished runs."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.cli import completion, judging
from trl_ext.cli.recipe_keys import A_RECIPE, Value, take_recipe_keys
from trl_ext.cli.sampling import TOKENS, add_sampling
from trl_ext.cli.values import add_quiet, writable_folder
from trl_ext.support import terminal
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import log

HELP = "train several losses on one base model and rank the runs"
EXAMPLES = """examples:
  trl-ext compare demo --losses dpo,ipo,simpo,kto
  trl-ext compare my.yaml --losses dpo,ipo --betas '{dpo: [0.05, 0.1], ipo: 0.1}' --seeds 0,1
  trl-ext compare my.yaml --losses dpo,simpo --eval_size 200 --max_steps 300
  trl-ext compare runs/demo-dpo runs/demo-ipo
  trl-ext compare runs/demo-dpo runs/demo-ipo --judge sentiment

A single recipe is trained with every loss. Otherwise finished runs are compared: directories of runs, their checkpoints, or recipes, whose latest finished runs are used.
The same command resumes an interrupted comparison. Finished runs are not trained again.

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C (the state is saved)"""

NO_EVALUATION = (
    "The recipe's `evaluation` is not carried out here, where all runs are evaluated alike. Add `--judge SOURCE` to judge them, or "
    "evaluate a run afterwards with `trl-ext eval RUN`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RECIPE|RUN... [--key value ...]"
    what = parser.add_argument("what", metavar="RECIPE|RUN", nargs="*", help=f"{A_RECIPE}; or several runs")
    what.completer = completion.recipes
    add = parser.add_argument
    add("--losses", action=Value, metavar="A,B", help="losses to train; required with a recipe")
    add(
        "--betas",
        action=Value,
        metavar="X,Y",
        help="betas for every loss, or a mapping '{dpo: [0.1, 0.3], ipo: 4}' (default: the recipe's)",
    )
    add("--seeds", action=Value, metavar="0,1", help="seeds of every loss and beta (default: the recipe's)")
    add(
        "--dataset",
        metavar="NAME|FILE",
        help="preferences to compare on (default: the rows that the runs hold out from training)",
    )
    add("--split", metavar="SPLIT", help="split of --dataset")
    add_sampling(parser)
    judging.add_judging(parser, takes_recipe_keys=True)
    add("--output_dir", metavar="DIR", help="directory of runs and report (default: runs/<recipe>-compare)")
    add_quiet(parser)
    take_recipe_keys(parser, what)


def run(args: argparse.Namespace) -> int:
    if args.output_dir is not None:
        args.output_dir = writable_folder("output_dir", args.output_dir)
    judging.check(args)
    paths = [Path(word).expanduser() for word in args.what]
    if len(paths) == 1 and not paths[0].is_dir():
        return _grid(paths[0], args)
    return _finished(paths, args)


def _grid(path: Path, args: argparse.Namespace) -> int:
    from trl_ext.comparison.grid import cells

    grid = cells(path, args.recipe_keys, args.losses, args.betas, args.seeds)
    first = grid[0].recipe
    directory = args.output_dir or Path("runs", f"{first.name}-compare")

    from trl_ext.runs import libraries, lock

    libraries.configure(first)  # before the imports below
    from trl_ext.comparison import report

    console = terminal.console()
    with lock.writing(directory), log.open():
        console.print(f"[bold]{first.name}[/bold]: {', '.join(cell.name for cell in grid)} → {directory}")
        judges = _judging([cell.recipe for cell in grid], directory, args, console)
        records = _train(grid, directory, args, console, judges)
        runs = {cell.name: directory / cell.name for cell in grid}
        judged = _judged(judges, runs, directory)
        title = f"{first.name}: {count(len(grid), 'runs')} compared"
        report.write(directory, title, records, runs, console, judged, _examples(judges, runs))
    return 0


def _train(
    grid: list[Any], directory: Path, args: argparse.Namespace, console: Any, judges: Any
) -> list[dict[str, Any]]:
    from trl_ext.comparison import training
    from trl_ext.model_files.available import require_model
    from trl_ext.runs import memory_check
    from trl_ext.runs.signals import guard

    first = grid[0].recipe
    training.refuse_others(grid, directory)
    with guard:
        if (copy := require_model(first.get("model_name_or_path"), first.get("model_revision"))) is not None:
            console.print(copy, markup=False)
        if first.evaluation is not None:
            console.print(NO_EVALUATION, markup=False)
        evaluator = _evaluator([cell.recipe for cell in grid], directory, args, console, judges)
        for warning in {warning: None for cell in grid for warning in memory_check.check(cell.recipe)}:
            console.print(warning)
        return training.train(grid, directory, console, evaluator)


def _finished(paths: list[Path], args: argparse.Namespace) -> int:
    grid = [name for name in ("losses", "betas", "seeds") if getattr(args, name) is not None]
    if unread := [*args.recipe_keys, *grid]:
        raise UserError(
            f"`--{unread[0]}` needs a single recipe, whose runs are trained. Finished runs are compared as they are: remove it."
        )
    from trl_ext.runs import finished, libraries, lock

    paths = [finished.directory_of(path) for path in paths]
    for path in paths:
        finished.check(path)
    names = _names(paths)
    recipes = [finished.began_as(path) for path in paths]
    began = {recipe.get("model_name_or_path") for recipe in recipes}
    if len(began) > 1:
        raise UserError(
            f"These runs started from different models: {', '.join(sorted(map(str, began)))}. Their KL and log-ratios refer "
            "to different references. Compare runs that started from the same model."
        )
    libraries.configure(recipes[0])  # before the imports below
    from trl_ext.comparison import report

    directory = args.output_dir or Path("runs", "compare-" + "-".join(names))
    console = terminal.console()
    with lock.writing(directory), log.open():
        judges = _judging(recipes, directory, args, console)
        evaluator = _evaluator(recipes, directory, args, console, judges)
        records, runs = [], dict(zip(names, paths, strict=True))
        with _kept(judges):
            for name, path in runs.items():
                console.print(f"[bold]{name}[/bold]")
                records.append(evaluator.evaluate_finished(name, path))
        judged = _judged(judges, runs, directory)
        _write_missing_pages(paths, console)
        report.write(
            directory, f"{count(len(paths), 'runs')} compared", records, runs, console, judged, _examples(judges, runs)
        )
    return 0


def _names(paths: list[Path]) -> list[str]:
    """Names of directories, preceded by the names of their parents where they are equal."""
    depth = 1
    while len({path.resolve().parts[-depth:] for path in paths}) < len(paths) and depth < 9:
        depth += 1
    return ["-".join(path.resolve().parts[-depth:]) for path in paths]


def _judging(recipes: list[Any], directory: Path, args: argparse.Namespace, console: Any) -> Any:
    """What judges the runs; `None` without `--judge`."""
    if not args.judge:
        return None
    from trl_ext.comparison import judging as comparison_judging
    from trl_ext.support.progress import Progress

    return comparison_judging.prepare(
        judging.choices(args),
        recipes,
        directory,
        judging.prompts(args),
        judging.sampling(args),
        lambda text: console.print(text, markup=False),
        Progress(console).watch,
    )


def _judged(judges: Any, runs: dict[str, Path], directory: Path) -> list[dict[str, Any]]:
    """The records of the judges."""
    if judges is None:
        return []
    with _kept(judges):
        return judges.play(runs, directory)


def _examples(judges: Any, runs: dict[str, Path]) -> dict[str, list[dict[str, str]]]:
    """Answers that were judged, by the name of the run."""
    return {} if judges is None else judges.examples(runs)


def _write_missing_pages(paths: list[Path], console: Any) -> None:
    """Write the page of each run that has none, for the links of the comparison."""
    from trl_ext.evaluation.run_page import page
    from trl_ext.evaluation.run_page.update import refresh
    from trl_ext.runs import finished

    for path in paths:
        if not (finished.home(path) / page.FILE).exists():
            refresh(path, lambda text: console.print(text, markup=False))


@contextlib.contextmanager
def _kept(judges: Any) -> Iterator[None]:
    """Say after Ctrl-C that answers and verdicts are kept."""
    try:
        yield
    except KeyboardInterrupt:
        if judges is None:
            raise
        from trl_ext.runs.signals import Interrupted

        raise Interrupted("What was sampled and judged is kept. Run the same command again to continue.") from None


def _evaluator(recipes: list[Any], directory: Path, args: argparse.Namespace, console: Any, judges: Any) -> Any:
    from trl_ext.cli.eval import watched
    from trl_ext.comparison.evaluator import Evaluator, common_rows
    from trl_ext.evaluation.reward_functions import reward_functions
    from trl_ext.evaluation.rows import RowChoice
    from trl_ext.evaluation.samples import Sampling

    functions = reward_functions(args.reward_funcs, recipes[0], args.dataset)
    choice = RowChoice(args.dataset, args.split, None, args.limit)
    try:
        rows = common_rows(recipes, directory, choice)
    except UserError as error:
        if judges is None or args.dataset is not None or args.split is not None:
            raise
        rows = None
        console.print(
            f"Only the judge compares these runs, and not their accuracy on preferences. {error}", markup=False
        )
    for statement in rows.statements if rows else ():
        console.print(statement)

    def tell(text: str) -> None:
        console.print(text, markup=False)

    sampling = Sampling(args.samples, args.max_new_tokens or TOKENS, seed=0)
    also = judges and judges.answer
    return Evaluator(rows, sampling, functions, tell, lambda items, count: watched(items, count, console), also)
