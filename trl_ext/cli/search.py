"""`trl-ext search`: find the settings of a recipe with the best held-out measure at a bounded KL, within a given time."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli.recipe_keys import Value, add_recipe
from trl_ext.cli.values import add_quiet, number, one_of, text, whole_number, writable_folder
from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "search loss, beta, learning rate, rank and length of a recipe for the best measure at a bounded KL"
EXAMPLES = """examples:
  trl-ext search demo --hours 0.25 --max_kl 1
  trl-ext search my.yaml --hours 8 --measure rewards.py:is_correct --losses dpo,ipo
  trl-ext search my.yaml --hours 8 --measure http://localhost:11434/v1 --search.judge_model qwen3:8b
  trl-ext search my.yaml --trials 30 --search.space '{learning_rate: {low: 1e-6, high: 1e-4}, beta: auto}'
  trl-ext search my.yaml --hours 8 --storage postgresql://user@host/searches     # the same command on several machines

Settings and ranges are those of the recipe's `search`, or defaults. A key given as a flag is not varied. Trials share the loaded base and the reference log-probabilities. Trials that are worse than others at equal KL are stopped early. The same command continues an interrupted search; several commands at the same time share one.

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C (finished trials are kept)"""

POSITIVE = number("a number greater than 0", lambda value: 0 < value < float("inf"))
INTERRUPTED = "The search was interrupted: the same command continues it."
INSTALL = "pip install 'trl-ext[search]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    keys = add_recipe(parser)
    add = parser.add_argument
    add("--hours", type=POSITIVE, metavar="H", help="length of the search, over all commands that continue it")
    add(
        "--trials",
        type=whole_number(1),
        metavar="N",
        help="number of trials after which the search ends (default: no limit)",
    )
    add(
        "--max_kl",
        type=POSITIVE,
        metavar="NATS",
        help="largest KL to the base of a result, per completion (default: 5)",
    )
    add(
        "--measure",
        type=text,
        metavar="SOURCE",
        help="what is maximised: `accuracy` on held-out preferences, a reward function, a reward model, or a judge, as SOURCE of "
        "`trl-ext eval --judge` (default: the true reward of the embedded data, else accuracy)",
    )
    add("--losses", action=Value, metavar="A,B", help="losses to try (default: the recipe's, dpo, ipo, simpo and kto)")
    add("--samples", type=whole_number(8), metavar="COUNT", help="held-out prompts to measure on (default: 256)")
    add("--limit", type=whole_number(8), metavar="ROWS", help="held-out rows for `accuracy` (default: 500)")
    add(
        "--max_new_tokens",
        type=whole_number(1),
        metavar="TOKENS",
        help="largest number of tokens of a completion (default: 128; with a judge 512)",
    )
    add("--dataset", metavar="NAME|FILE", help="held-out data (default: the rows that the recipe holds out)")
    add("--split", metavar="SPLIT", help="split of the held-out data")
    add(
        "--pruner",
        type=one_of("successive_halving", "hyperband", "none"),
        metavar="NAME",
        help="what stops trials early: successive_halving, hyperband or none (default: successive_halving)",
    )
    add(
        "--storage",
        type=text,
        metavar="URL",
        help="database of the trials (default: trials.db in --output_dir, with SQLite)",
    )
    add("--output_dir", metavar="DIR", help="directory of trials and result (default: runs/<recipe>-search)")
    add_quiet(parser)
    keys.description += " --search.entry value: sets an entry of `search`, such as --search.rungs 3."


def run(args: argparse.Namespace) -> int:
    from trl_ext.checks import packages

    if not packages.is_installed("optuna"):
        raise UserError(f"A search needs the package optuna, which is not installed here. Run `{INSTALL}`.")
    from trl_ext.cli import search_asked

    asked = search_asked.read(args)
    directory = writable_folder("output_dir", args.output_dir or Path("runs", f"{asked.recipe.name}-search"))
    from trl_ext.runs import libraries

    libraries.configure(asked.recipe)  # before the imports below
    return _search(args, asked, directory, terminal.console())


def _search(args: argparse.Namespace, asked: Any, directory: Path, console: Any) -> int:
    from trl_ext.model_files.available import require_model
    from trl_ext.runs import memory_check
    from trl_ext.runs.signals import Interrupted, guard
    from trl_ext.search import loop, measure, report, settings, study
    from trl_ext.search.clock import Clock
    from trl_ext.search.trial import Objective, last_words

    def tell(line: str) -> None:
        console.print(line, markup=False)

    clock, recipe = Clock(asked.hours), asked.recipe
    with guard, study.quiet():
        settled = settings.settle(recipe, asked.flags, compares=asked.compares)
        recorded = settings.record(recipe, asked.space, settled)
        console.print(f"[bold]{recipe.name}[/bold]: search → {directory}")
        for note in asked.notes:
            tell(note)
        if (copy := require_model(recipe.get("model_name_or_path"), recipe.get("model_revision"))) is not None:
            tell(copy)
        for line in asked.space.in_words():
            tell(f"  {line}")
        measurer = measure.prepare(recipe, settled, directory, tell)
        tell(measurer.in_words())
        for warning in memory_check.check(recipe):
            tell(warning)
        url = asked.storage or study.default_url(directory)
        directory.mkdir(parents=True, exist_ok=True)
        study.refuse_others(directory, recorded)
        made = study.open_study(url, settings.study_name(recipe, recorded), settled, recorded, asked.space.size)
        objective = Objective(
            args.recipe, {**args.recipe_keys}, asked.space, settled, measurer, clock, directory, tell
        )
        loop.learn(clock, made)
        loop.enqueue_recipe(made, objective, recipe)
        tell(loop.beginning(made, clock, asked.trials))
        guard.last_words = last_words
        try:
            why = loop.carry_out(made, objective, asked.trials, tell)
        except Interrupted:
            report.write(made, objective, recipe.name, INTERRUPTED, console)
            raise
        report.write(made, objective, recipe.name, why, console)
    return 0
