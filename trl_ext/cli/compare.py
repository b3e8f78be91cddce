"""`trl-ext compare`: losses, betas and seeds on equal terms, or runs that are finished."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli.arguments import overrides, own, writable_folder
from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "train several losses on one loaded base, or take finished runs, and show which one won"
EXAMPLES = """examples:
  trl-ext compare recipes/demo.yaml --losses dpo,ipo,simpo,kto
  trl-ext compare my.yaml --losses dpo,ipo --betas '{dpo: [0.05, 0.1], ipo: 0.1}' --seeds 0,1
  trl-ext compare my.yaml --losses dpo,simpo --eval_size 200 --max_steps 300
  trl-ext compare runs/demo-dpo runs/demo-ipo                  what was trained before

Any key of a recipe can follow, as for `run`. Started again after an interruption, it goes on where it stopped; finished
runs are not repeated. exit code: 0, or 2 for something to put right"""

OWN = {
    "losses": None,
    "betas": None,
    "seeds": None,
    "dataset": None,
    "split": None,
    "limit": 500,
    "samples": 256,
    "max_new_tokens": 128,
    "reward_funcs": None,
    "output_dir": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="RECIPE or RUN", nargs="+", help="a YAML file, or the directories of runs")
    parser.add_argument("--losses", metavar="A,B", help="of the grid; a recipe needs them")
    parser.add_argument("--betas", metavar="X,Y", help="for every loss, or '{dpo: [0.1, 0.3], ipo: 4}' (the recipe's)")
    parser.add_argument("--seeds", metavar="0,1", help="of the grid (the recipe's)")
    parser.add_argument("--dataset", metavar="NAME or FILE", help="preferences to compare on (what runs hold out)")
    parser.add_argument("--split", metavar="S", help="of them")
    parser.add_argument("--limit", metavar="N", help="preferences at most (500)")
    parser.add_argument("--samples", metavar="N", help="completions to sample of each run (256; 0 for none)")
    parser.add_argument("--max_new_tokens", metavar="N", help="of a sample, at most (128)")
    parser.add_argument("--reward_funcs", metavar="FUNCTION", help="score samples, as in a PPO recipe")
    parser.add_argument("--output_dir", metavar="DIR", help="where all of it goes (runs/<recipe>-compare)")
    parser.add_argument(
        "overrides", metavar="--key value", nargs=argparse.REMAINDER, help="any key of a recipe, for every run"
    )


def run(args: argparse.Namespace) -> int:
    values = overrides(args.overrides)
    given = own(args, values, OWN)
    for name, least in (("limit", 1), ("samples", 0), ("max_new_tokens", 1)):
        if isinstance(given[name], bool) or not isinstance(given[name], int) or given[name] < least:
            raise UserError(f"`--{name}` is {given[name]!r}: give a whole number from {least} up.")
    if given["output_dir"] is not None:
        given["output_dir"] = writable_folder("output_dir", given["output_dir"])
    paths = [Path(word) for word in args.what]
    if all(path.is_dir() for path in paths):
        return _finished(paths, given, values)
    if len(paths) > 1:
        missing = next(path for path in paths if not path.is_dir())
        raise UserError(
            f"{missing} is no directory of a run: name one recipe with `--losses`, or directories of runs."
        )
    return _grid(paths[0], given, values)


def _grid(path: Path, given: dict[str, Any], values: dict[str, Any]) -> int:
    from trl_ext.comparison.grid import cells

    grid = cells(path, values, given["losses"], given["betas"], given["seeds"])
    first = grid[0].recipe
    directory = Path(given["output_dir"] or Path("runs", f"{first.name}-compare"))

    from trl_ext.runs import lock, run

    run.quieten(first)  # before the imports below
    from trl_ext.comparison import report

    console = terminal.console()
    with lock.writing(directory):
        console.print(f"[bold]{first.name}[/bold]: {', '.join(cell.name for cell in grid)} → {directory}")
        records = _train(grid, directory, given, console)
        runs = {cell.name: directory / cell.name for cell in grid}
        report.write(directory, f"{first.name}: {len(grid)} runs compared", records, runs, console)
    return 0


def _train(grid: list[Any], directory: Path, given: dict[str, Any], console: Any) -> list[dict[str, Any]]:
    from trl_ext.comparison import training
    from trl_ext.model_files.available import require_model
    from trl_ext.runs import memory_check
    from trl_ext.runs.signals import guard

    first = grid[0].recipe
    training.refuse_others(grid, directory)
    with guard:
        if (copy := require_model(first.get("model_name_or_path"), first.get("model_revision"))) is not None:
            console.print(copy, markup=False)
        evaluator = _evaluator([cell.recipe for cell in grid], directory, given, console)
        for warning in {warning: None for cell in grid for warning in memory_check.check(cell.recipe)}:
            console.print(warning)
        return training.train(grid, directory, console, evaluator)


def _finished(paths: list[Path], given: dict[str, Any], values: dict[str, Any]) -> int:
    if unread := [*values, *(name for name in ("losses", "betas", "seeds") if given[name] is not None)]:
        raise UserError(f"`--{unread[0]}` is for a recipe, and runs that are finished are compared as they are.")
    from trl_ext.runs import finished, lock, run

    for path in paths:
        finished.check(path)
    names = _names(paths)
    recipes = [finished.began_as(path) for path in paths]
    began = {recipe.get("model_name_or_path") for recipe in recipes}
    if len(began) > 1:
        raise UserError(
            f"These runs began with different models ({', '.join(sorted(map(str, began)))}), so their KL and log-ratios are to "
            "different references: compare runs that began with the same one."
        )
    run.quieten(recipes[0])  # before the imports below
    from trl_ext.comparison import report

    directory = Path(given["output_dir"] or Path("runs", "compare-" + "-".join(names)))
    console = terminal.console()
    with lock.writing(directory):
        evaluator = _evaluator(recipes, directory, given, console)
        records = []
        for name, path in zip(names, paths, strict=True):
            console.print(f"[bold]{name}[/bold]")
            records.append(evaluator.evaluate_finished(name, path))
        report.write(directory, f"{len(paths)} runs compared", records, dict(zip(names, paths, strict=True)), console)
    return 0


def _names(paths: list[Path]) -> list[str]:
    """Names of directories, with those of the directories above where they are alike."""
    depth = 1
    while len({path.resolve().parts[-depth:] for path in paths}) < len(paths) and depth < 9:
        depth += 1
    return ["-".join(path.resolve().parts[-depth:]) for path in paths]


def _evaluator(recipes: list[Any], directory: Path, given: dict[str, Any], console: Any) -> Any:
    from trl_ext.cli.eval import watched
    from trl_ext.comparison.evaluator import Evaluator, common_rows, reward_functions
    from trl_ext.evaluation.rows import RowChoice
    from trl_ext.evaluation.samples import Sampling

    functions = reward_functions(given["reward_funcs"], recipes[0])
    choice = RowChoice(given["dataset"], given["split"], None, given["limit"])
    rows = common_rows(recipes, directory, choice)
    for statement in rows.statements:
        console.print(statement)

    def log(text: str) -> None:
        console.print(text, markup=False)

    sampling = Sampling(given["samples"], given["max_new_tokens"], seed=0)
    return Evaluator(rows, sampling, functions, log, lambda items, count: watched(items, count, console))
