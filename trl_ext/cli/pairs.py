"""`trl-ext pairs`: make preference data from a model's own completions, once or in rounds of training."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

from trl_ext.cli import judging, pairs_asked, pairs_flags
from trl_ext.cli.recipe_keys import A_RUN_OR_RECIPE, take_recipe_keys
from trl_ext.cli.values import add_quiet
from trl_ext.support import encoding, terminal
from trl_ext.support.run_log import LoggedConsole, log

HELP = "make preference pairs from a model's own completions, scored by a reward or a judge"
EXAMPLES = """examples:
  trl-ext pairs demo --reward_funcs sentiment
  trl-ext pairs demo --adapter runs/demo-dpo --reward_funcs sentiment --num_generations 4 --limit 200
  trl-ext pairs my.yaml --reward_adapter runs/my-reward --prompts questions.jsonl --output data/pairs.jsonl
  trl-ext pairs my-run --judge http://localhost:11434/v1 --judge_model qwen3:8b
  trl-ext pairs my.yaml --reward_funcs rewards.py:is_correct --labelled --threshold 1
  trl-ext pairs demo --reward_funcs sentiment --rounds 3 --limit 300 --max_steps 30

The data is read with `--dataset_name OUTPUT` by `trl-ext run`, and is in TRL's own columns. Completions and scores are kept: the same command continues after an interrupt, and samples and scores nothing twice.

With --rounds, each round samples from the last adapter, scores, and trains the recipe on the new data.

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C"""

MOST_TOKENS = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument("recipe", metavar="RUN|RECIPE", nargs="?", help=A_RUN_OR_RECIPE)
    take_recipe_keys(parser, what)
    parser.usage = "%(prog)s RUN|RECIPE [options] [--key value ...]"
    pairs_flags.add_sampling(parser.add_argument_group("sampling"))
    pairs_flags.add_scores(
        parser.add_argument_group("scores", "Rewards, or a judge. With rewards, a score is their weighted sum.")
    )
    pairs_flags.add_rows(parser.add_argument_group("rows"))
    pairs_flags.add_rounds(parser.add_argument_group("rounds"))
    parser.add_argument(
        "--output",
        "--output_dir",
        dest="output",
        metavar="DIR|FILE.jsonl",
        help="folder or file for the data (default: runs/<recipe or run>-pairs, with --rounds runs/<recipe>-rounds)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace data that was made with other settings; completions and scores that do not depend on them are kept",
    )
    add_quiet(parser)
    parser.add_argument("--json", action="store_true", help="print the provenance as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    from trl_ext.runs import libraries

    recipe = pairs_asked.recipe_of(args)
    pairs_asked.check(args, recipe)
    output = pairs_asked.output_of(args, recipe)
    libraries.configure(recipe)  # before the imports below
    console = terminal.console(stderr=args.json)
    with log.open(), contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        record = (_once if args.rounds is None else _in_rounds)(args, recipe, output, LoggedConsole(console))
    if args.json:
        print(encoding.as_json(record, indent=2))
    return 0


def _parts(args: argparse.Namespace, recipe: Any, n: int | None, say: Any) -> tuple[Any, ...]:
    """Policy, prompts, sampling, scoring and selection of the command line; everything is checked."""
    from trl_ext.build.config import training_config
    from trl_ext.checks import pairing
    from trl_ext.evaluation.judged import longest
    from trl_ext.evaluation.prompts import PromptChoice, fitting
    from trl_ext.pairing.policy import Policy
    from trl_ext.pairing.prompts import training_prompts
    from trl_ext.pairing.scoring import Scoring, ScoringChoice
    from trl_ext.pairing.settings import Sampling, Selection

    judges = judging.choices(args)
    clip = recipe.get("reward_clip_range")
    choice = ScoringChoice(
        reward_funcs=tuple(map(str, args.reward_funcs or ())),
        reward_adapter=args.reward_adapter,
        weights=args.reward_weights and tuple(map(float, args.reward_weights)),
        clip=clip and (float(clip[0]), float(clip[1])),
        missing_eos_penalty=recipe.get("missing_eos_penalty"),
        judge=judges[0] if judges else None,
        comparisons=args.comparisons,
    )
    first = Policy(recipe)
    scoring = Scoring(choice, first.base)
    policy = Policy(recipe, needs_adapter=scoring.needs_adapter, weights=args.sampling_weights)
    policy.check()
    config = training_config(recipe, Path("unused"))
    found = training_prompts(recipe, config, PromptChoice(args.prompts, args.split, args.dataset_columns, n))
    scoring.check_columns([*found.columns])
    sampling = Sampling(
        args.num_generations,
        args.max_new_tokens or _most_tokens(recipe),
        recipe.get("temperature") or 1.0 if args.temperature is None else args.temperature,
        recipe.effective("seed") if args.seed is None else args.seed,
    )
    found = fitting(found, policy.tokenizer(), longest(policy.base, recipe), sampling.max_new_tokens)
    for statement in [*recipe.notes, *found.statements, *pairing.notes(recipe.values)]:
        say(statement)
    selection = Selection(
        labelled=args.labelled or (args.rounds is not None and not recipe.method.is_paired),
        select=args.select or "best_worst",
        margin=args.margin or 0.0,
        threshold=args.threshold,
        keep_truncated=args.keep_truncated,
        write_margin=args.write_margin,
    )
    return policy, found, sampling, scoring, selection


def _most_tokens(recipe: Any) -> int:
    own, length = recipe.get("max_completion_length"), recipe.effective("max_length")
    return own or (max(1, length // 2) if length else MOST_TOKENS)


def _once(args: argparse.Namespace, recipe: Any, output: Any, console: Any) -> dict[str, Any]:
    """Make one set of pairs, and print what it is like."""
    from trl_ext.pairing import report
    from trl_ext.pairing.make import make_pairs
    from trl_ext.runs import lock
    from trl_ext.runs.signals import Interrupted
    from trl_ext.support.progress import Progress

    def say(line: str) -> None:
        console.print(line, markup=False)

    progress = Progress(console)
    policy, prompts, sampling, scoring, selection = _parts(args, recipe, args.limit, say)
    with lock.writing(output.kept):
        try:
            provenance = make_pairs(
                policy,
                prompts,
                sampling,
                scoring,
                selection,
                output,
                say,
                progress.watch,
                overwrite=args.overwrite,
                more={"recipe": recipe.word},
                **({} if args.batch_size is None else {"batch_size": args.batch_size}),
            )
        except KeyboardInterrupt:
            raise Interrupted(judging.kept(progress)) from None
    train = ""
    if recipe.method.is_default and recipe.method.is_paired != selection.labelled and not Path(args.recipe).is_dir():
        train = f"trl-ext run {shlex.quote(recipe.word)} --dataset_name {shlex.quote(str(output.named))}"
    report.show(console, provenance, output, train)
    return provenance


def _in_rounds(args: argparse.Namespace, recipe: Any, output: Path, console: Any) -> dict[str, Any]:
    """Carry out the rounds, and print a table of them."""
    from trl_ext.build.config import training_config
    from trl_ext.cli.run import evaluate
    from trl_ext.pairing import held_out, round_recipe, rounds, rounds_report
    from trl_ext.pairing.prompts import held_out_prompts
    from trl_ext.runs import lock, memory_check
    from trl_ext.runs.signals import guard
    from trl_ext.support.progress import Progress

    def say(line: str) -> None:
        console.print(line, markup=False)

    with guard, lock.writing(output):
        policy, prompts, sampling, scoring, selection = _parts(args, recipe, None, say)
        measured, why = held_out_prompts(recipe, training_config(recipe, output), policy, sampling, held_out.MOST)
        repeated = rounds.Rounds(
            recipe,
            prompts,
            args.limit,
            measured,
            sampling,
            scoring,
            selection,
            args.reference or round_recipe.BASE,
            weights=args.sampling_weights,
            **({} if args.batch_size is None else {"batch_size": args.batch_size}),
        )
        rounds.begin(repeated, output, overwrite=args.overwrite)
        if why:
            say(f"Rounds are not measured on held-out prompts. {why}")
        for warning in memory_check.check(recipe):
            console.print(warning)
        if unread := round_recipe.left_out(recipe):
            say(
                f"{', '.join(f'`{key}`' for key in unread)}: not read in rounds, whose data has no split for evaluation."
            )
        records = rounds.carry_out(repeated, args.rounds, output, console, Progress(console).watch, evaluate)
    rounds_report.show(console, records, output, repeated)
    return {"rounds": records}
