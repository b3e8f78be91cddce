"""`trl-ext compare`: losses, betas and seeds on equal terms, or runs that are finished."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli import tables
from trl_ext.cli.arguments import overrides, own, writable_folder
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


ON_THE_PAGE = ("margin", "chosen", "rejected", "ended", "seconds", "peak_bytes")
"""Figures that a terminal has no room for."""


NOT_SHOWN = ("evaluation_seconds", "asked")
"""Parts of a run's record that are not about the run."""


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

    from rich.console import Console

    from trl_ext.runs import lock, run

    run.quieten(first)
    console = Console(highlight=False, soft_wrap=True)
    with lock.writing(directory):
        console.print(f"[bold]{first.name}[/bold]: {', '.join(cell.name for cell in grid)} → {directory}")
        records = _train(grid, directory, given, console)
        runs = {cell.name: directory / cell.name for cell in grid}
        _report(directory, f"{first.name}: {len(grid)} runs compared", records, runs, console)
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
        judge = _judge([cell.recipe for cell in grid], directory, given, console)
        for warning in {warning: None for cell in grid for warning in memory_check.check(cell.recipe)}:
            console.print(warning)
        return training.train(grid, directory, console, judge)


def _finished(paths: list[Path], given: dict[str, Any], values: dict[str, Any]) -> int:
    if unread := [*values, *(name for name in ("losses", "betas", "seeds") if given[name] is not None)]:
        raise UserError(f"`--{unread[0]}` is for a recipe, and runs that are finished are compared as they are.")
    from rich.console import Console

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
    run.quieten(recipes[0])
    directory = Path(given["output_dir"] or Path("runs", "compare-" + "-".join(names)))
    console = Console(highlight=False, soft_wrap=True)
    with lock.writing(directory):
        judge = _judge(recipes, directory, given, console)
        records = []
        for name, path in zip(names, paths, strict=True):
            console.print(f"[bold]{name}[/bold]")
            records.append(judge.finished(name, path))
        _report(directory, f"{len(paths)} runs compared", records, dict(zip(names, paths, strict=True)), console)
    return 0


def _names(paths: list[Path]) -> list[str]:
    """Names of directories, with those of the directories above where they are alike."""
    depth = 1
    while len({path.resolve().parts[-depth:] for path in paths}) < len(paths) and depth < 9:
        depth += 1
    return ["-".join(path.resolve().parts[-depth:]) for path in paths]


def _judge(recipes: list[Any], directory: Path, given: dict[str, Any], console: Any) -> Any:
    from trl_ext.cli.eval import watched
    from trl_ext.comparison import judging
    from trl_ext.evaluation.evaluate import Sampling
    from trl_ext.evaluation.rows import Asked

    scores = judging.scores(given["reward_funcs"], recipes[0])
    asked = Asked(given["dataset"], given["split"], None, given["limit"])
    rows = judging.rows(recipes, directory, asked)
    for statement in rows.statements:
        console.print(statement)

    def say(text: str) -> None:
        console.print(text, markup=False)

    sampling = Sampling(given["samples"], given["max_new_tokens"], seed=0)
    return judging.Judge(rows, sampling, scores, say, lambda items, count: watched(items, count, console))


def _report(directory: Path, title: str, records: list[dict[str, Any]], runs: dict[str, Path], console: Any) -> None:
    from trl_ext.comparison import measure, page, report
    from trl_ext.runs import environment

    rows = [
        measure.of_run(**{key: value for key, value in record.items() if key not in NOT_SHOWN}) for record in records
    ]
    evaluation = records[0]["evaluation"]
    data, sampled = evaluation["data"], evaluation.get("sampled")
    versions = environment.describe()["packages"]
    facts = [
        f"Ranked on {data.get('pairs', data.get('answers')):,} {'pairs' if 'pairs' in data else 'answers'} of {data['name']}"
        + (
            ", on some or all of which the runs were trained."
            if data["was_trained_on"]
            else ", on which none was trained."
        ),
        f"The base is {evaluation['reference']}.",
        f"Intervals: {evaluation['intervals']}.",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    if sampled:
        facts.insert(
            1,
            f"{sampled['n']} completions of up to {sampled['max_new_tokens']} tokens sampled of each, at temperature 1.",
        )
    written = report.write(directory, title, rows, measure.of_base(evaluation), runs, facts)
    console.print(_table(rows, measure.of_base(evaluation), page))
    console.print(page.summary(rows, measure.of_base(evaluation)), markup=False)
    console.print(f"report   {written}\ntable    {directory / report.TABLE}")


def _table(rows: list[dict[str, Any]], base: dict[str, Any], page: Any) -> Any:
    content = page.table(rows, base, without=ON_THE_PAGE)
    table = tables.plain()
    for number, heading in enumerate(content["headings"]):
        table.add_column(
            heading, justify="right" if number else "left", min_width=max(map(len, heading.split()), default=0)
        )
    for line in content["rows"]:
        table.add_row(*(f"[bold]{cell['text']}[/bold]" if cell["is_best"] else cell["text"] for cell in line))
    return table
