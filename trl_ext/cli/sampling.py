"""The arguments of `eval` and `compare` that choose rows, completions and rewards: equal defaults give equal results."""

import argparse

from trl_ext.cli.judging import ANSWER_TOKENS
from trl_ext.cli.recipe_keys import Value
from trl_ext.cli.values import whole_number

ROWS, SAMPLES, TOKENS = 2000, 256, 128
"""Defaults: rows that are scored, completions that are sampled, and tokens of one."""


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add `--limit`, `--samples`, `--max_new_tokens` and `--reward_funcs`."""
    add = parser.add_argument
    add(
        "--limit",
        type=whole_number(1),
        default=ROWS,
        metavar="ROWS",
        help=f"use only the first ROWS rows (default: {ROWS})",
    )
    add(
        "--samples",
        type=whole_number(0),
        default=SAMPLES,
        metavar="COUNT",
        help=f"completions to sample per model, each for a different prompt; 0 for none (default: {SAMPLES})",
    )
    add(
        "--max_new_tokens",
        type=whole_number(1),
        default=None,
        metavar="TOKENS",
        help=f"largest number of tokens per sample (default: {TOKENS}; with --judge {ANSWER_TOKENS})",
    )
    add(
        "--reward_funcs",
        action=Value,
        metavar="FUNCTION",
        help="reward functions for the samples, as in a PPO recipe (default: those of the embedded data)",
    )
