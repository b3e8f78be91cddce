"""The arguments of `eval` and `compare` that choose a judge, and the prompts whose answers it reads."""

import argparse
from typing import Any

from trl_ext.cli.values import text, whole_number
from trl_ext.support.errors import UserError

ANSWER_TOKENS = 512
"""Default of `--max_new_tokens` for answers that are judged: an answer that is cut off is judged as it is."""

FLAGS = ("model", "base_url", "template", "concurrency", "timeout", "retries", "max_tokens", "temperature", "revision")
"""Flags `--judge_…` that are fields of `JudgeChoice`, besides the switch `load_in_4bit`."""


def add_judging(parser: argparse.ArgumentParser, *, takes_recipe_keys: bool = False) -> None:
    """Add `--judge`, `--prompts` and what a judge is set up with.

    Args:
        parser: Of `eval` or `compare`.
        takes_recipe_keys: Whether `--temperature` is a key of a recipe. Answers are then sampled at temperature 1.
    """
    group = parser.add_argument_group(
        "judging",
        "--judge SOURCE compares the answers of a run with those of its base. SOURCE is a reward function as in reward_funcs, the "
        "folder or Hub name of a reward model or language model, `api`, or an API's address; function:, reward:, model: and api: "
        "say which where the name does not.",
    )
    add = group.add_argument
    add(
        "--judge",
        action="append",
        type=text,
        metavar="SOURCE",
        help="judge the answers; twice for the agreement of two",
    )
    add("--prompts", metavar="NAME|FILE", help="prompts to answer (default: those the run held out from training)")
    if takes_recipe_keys:
        parser.set_defaults(temperature=None)
    else:
        add("--temperature", type=_number, default=None, metavar="T", help="temperature of the answers (default: 1)")
    add_judge_settings(group)


def add_judge_settings(group: Any) -> None:
    """Add the flags that set a judge up."""
    add = group.add_argument
    add("--judge_model", type=text, metavar="NAME", help="model of an API")
    add("--judge_base_url", type=text, metavar="URL", help="address of an API (default: https://api.openai.com/v1)")
    add(
        "--judge_template",
        metavar="FILE",
        help="text with {prompt}, {first} and {second} that an API or a model reads",
    )
    add("--judge_concurrency", type=whole_number(1), metavar="N", help="requests at a time to an API (default: 8)")
    add("--judge_timeout", type=_number, metavar="SECONDS", help="longest wait for an API's reply (default: 120)")
    add("--judge_retries", type=whole_number(0), metavar="N", help="repetitions of a failed request (default: 5)")
    add("--judge_max_tokens", type=whole_number(1), metavar="N", help="tokens of an API's reply (default: 1024)")
    add("--judge_temperature", type=_number, metavar="T", help="temperature of an API's replies (default: 0)")
    add("--judge_revision", metavar="REVISION", help="commit, branch or tag of a model on the Hub")
    add("--judge_load_in_4bit", action="store_true", help="quantise a judge that is loaded here")


def check(args: argparse.Namespace) -> None:
    """Refuse a judge and its settings where they cannot be, and settings that no judge reads.

    Raises:
        UserError: Names the flags.
    """
    from trl_ext.checks import evaluation_parts

    keys = ["judge", *evaluation_parts.OF_JUDGES, "prompts"]
    given = {key: value for key in keys if evaluation_parts.is_given(vars(args), key) and (value := vars(args)[key])}
    if args.judge and args.samples == 0:
        given["samples"] = 0
    if problems := list(evaluation_parts.problems(given, lambda key: f"`--{key}`")):
        raise UserError(problems, about="the command line" if len(problems) > 1 else "")


def choices(args: argparse.Namespace) -> list[Any]:
    """The judges of the command line; none without `--judge`."""
    from trl_ext.judging.open_judge import JudgeChoice

    given = {name: getattr(args, f"judge_{name}") for name in FLAGS}
    return [JudgeChoice(source, **given, load_in_4bit=args.judge_load_in_4bit) for source in args.judge or ()]


def sampling(args: argparse.Namespace, seed: int = 0) -> Any:
    """How answers are sampled."""
    from trl_ext.evaluation.answers import AnswerSampling

    return AnswerSampling(
        ANSWER_TOKENS if args.max_new_tokens is None else args.max_new_tokens,
        1.0 if args.temperature is None else args.temperature,
        seed,
    )


def prompts(args: argparse.Namespace, columns: Any = None) -> Any:
    """Which prompts are answered: those of `--prompts`, or else of `--dataset`."""
    from trl_ext.evaluation.prompts import PromptChoice

    return PromptChoice(args.dataset if args.prompts is None else args.prompts, args.split, columns, args.samples)


def kept(progress: Any) -> str:
    """What an interrupted evaluation says: how far it came, and how to continue."""
    done = [f"{n:,} of {total:,} {title}" for title, (n, total) in progress.done.items()]
    so_far = f"Done: {', '.join(done)}. What was sampled and judged is kept. " if done else ""
    return f"{so_far}Run the same command again to continue."


def _number(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {given!r}: give a number of at least 0.")
    return value
