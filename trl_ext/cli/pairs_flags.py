"""The flags of `trl-ext pairs`."""

import math
from typing import Any

from trl_ext.cli import judging
from trl_ext.cli.recipe_keys import Value
from trl_ext.cli.values import number, one_of, text, whole_number

COMPLETIONS = 8
"""Default of `--num_generations`."""


def add_sampling(group: Any) -> None:
    """Which model writes completions, of which prompts, and how."""
    add = group.add_argument
    add("--adapter", metavar="RUN", help="run whose adapter is sampled from (default: the model of the recipe)")
    add("--prompts", metavar="NAME|FILE", help="prompts, of any kind of data (default: those the recipe trains on)")
    add("--split", metavar="SPLIT", help="split of the prompts (default: the one the recipe trains on)")
    add(
        "--dataset_columns",
        action=Value,
        metavar="'{prompt: COLUMN, ...}'",
        help="columns of --prompts, as in a recipe",
    )
    add(
        "--limit",
        type=whole_number(1),
        metavar="PROMPTS",
        help="number of prompts, from the first; with --rounds of each round, which takes the next ones (default: all)",
    )
    add(
        "--num_generations",
        type=whole_number(2, "A pair needs two completions of a prompt."),
        metavar="N",
        help=f"completions per prompt (default: the recipe's, or else {COMPLETIONS})",
    )
    add(
        "--max_new_tokens",
        type=whole_number(1),
        metavar="TOKENS",
        help="largest number of tokens of a completion (default: max_completion_length of the recipe, or half of max_length)",
    )
    add("--temperature", type=_number, metavar="T", help="temperature (default: the recipe's, or else 1)")
    add(
        "--seed",
        type=int,
        metavar="SEED",
        help="seed of the sampling and of training in rounds (default: the recipe's)",
    )
    add(
        "--sampling_weights",
        type=one_of("adapter", "merged"),
        default="adapter",
        metavar="adapter|merged",
        help="sample from the quantised base with its adapter, or from a 16-bit copy (float32 on a CPU) with the adapter merged in, "
        "which is faster and takes more memory (default: adapter)",
    )
    add(
        "--batch_size",
        type=whole_number(1),
        metavar="N",
        help="completions sampled together; does not change them, and is halved where memory runs out (default: 64)",
    )


def add_scores(group: Any) -> None:
    """What scores completions."""
    add = group.add_argument
    add(
        "--reward_funcs",
        action=Value,
        metavar="FUNCTION",
        help="reward functions and sequence classifiers, as in a recipe (default: the recipe's)",
    )
    add("--reward_adapter", metavar="RUN", help="reward model on the same base (default: the recipe's)")
    add("--reward_weights", action=Value, metavar="X,Y", help="weight of each reward, the adapter's last (default: 1)")
    add(
        "--judge",
        action="append",
        type=text,
        metavar="SOURCE",
        help="judge in place of rewards: a reward function, a reward model, a language model, `api`, or an address",
    )
    add(
        "--comparisons",
        type=whole_number(1),
        metavar="N",
        help="pairs of completions per prompt that a judge compares which gives no scores (default: twice --num_generations, or "
        "all); best and worst are chosen by Bradley-Terry strengths",
    )
    judging.add_judge_settings(group)


def add_rows(group: Any) -> None:
    """Which completions become rows."""
    add = group.add_argument
    add(
        "--select",
        type=one_of("best_worst", "all"),
        metavar="best_worst|all",
        help="pairs of a prompt: the best with the worst completion, or every two (default: best_worst)",
    )
    add(
        "--margin",
        type=_number,
        metavar="X",
        help="the scores of a pair differ by more than X, in their unit; with --labelled, a score from the mean (default: 0)",
    )
    add(
        "--write_margin",
        action="store_true",
        help="add the column `margin`, the difference of the scores, which `trainer: reward` and `loss: rpo` read",
    )
    add("--labelled", action="store_true", help="write completions with labels instead of pairs, as for KTO")
    add(
        "--threshold",
        type=_number,
        metavar="X",
        help="with --labelled: a score of at least X is desirable (default: a score above the mean of the prompt)",
    )
    add(
        "--keep_truncated",
        action="store_true",
        help="use completions that reached --max_new_tokens, too; training adds an end to them",
    )


def add_rounds(group: Any) -> None:
    """Training in rounds."""
    add = group.add_argument
    add(
        "--rounds",
        type=whole_number(1),
        metavar="N",
        help="repeat N times: sample, score, train from the last adapter",
    )
    add(
        "--reference",
        type=one_of("base", "last"),
        metavar="base|last",
        help="reference of the training in a round: the base, or the adapter the round starts from (default: base)",
    )


def _number(given: str) -> float:
    return number("a number", math.isfinite)(given)
