"""`trl-ext advantages`: list the advantages that `--advantage` takes, or explain one."""

import argparse
import importlib
import inspect
from typing import Any

from trl_ext.cli import completion, listing

HELP = "list the advantages of reinforcement learning, or explain one"
EXAMPLES = listing.examples("advantages", "rloo")

MEANINGS = {
    "gamma": "γ, the discount per token; a KL in the reward is exact only with 1",
    "lam": "λ; with 1 the critic causes no bias, with 0 only the next value is used",
    "scale_rewards": "divide by the deviation of R in the group (the paper), in the whole batch (arXiv:2508.08221), or by none "
    "(arXiv:2503.20783)",
}
"""Meaning of each hyperparameter."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listing.add_arguments(parser, "advantage", completion.advantages)


def run(args: argparse.Namespace) -> int:
    from trl_ext.rl import advantages

    if args.name is not None:
        _explain(listing.described(advantages, args.name), is_json=args.json)
        return 0
    infos = [advantages.describe(name) for name in advantages.available()]
    if args.json:
        listing.print_json([facts(info) for info in infos])
        return 0
    listing.print_table(
        lambda wide: listing.names_and_formulas(infos, wide, "advantage", {"needs": _needs}), advantages.NOTATION
    )
    return 0


def facts(info: Any) -> dict[str, Any]:
    """A `trl_ext.rl.advantages.AdvantageInfo` as plain data."""
    return {
        "name": info.name,
        "formula": info.formula,
        "needs_critic": info.needs_critic,
        "needs_groups": info.needs_groups,
        "needs_greedy": info.needs_greedy,
        "whitens": info.whitens,
        "loss_aggregation": info.aggregation,
        "importance_sampling_level": info.level,
        "inputs": list(info.inputs),
        "hyperparameters": info.hyperparameters,
        "paper": info.paper,
    }


def _needs(info: Any) -> str:
    """What it needs besides the rewards, in a word."""
    needs = {"critic": info.needs_critic, "groups": info.needs_groups, "greedy": info.needs_greedy}
    return ", ".join(word for word, is_needed in needs.items() if is_needed) or "none"


def _explain(info: Any, *, is_json: bool) -> None:
    """Print one advantage: formula, notation, inputs, hyperparameters and description."""
    from trl_ext.rl import advantages, policy_gradient

    text = inspect.getdoc(getattr(importlib.import_module(f"trl_ext.rl.advantages.{info.name}"), info.name))
    if is_json:
        more = {
            "summary": info.summary,
            "notation": advantages.NOTATION,
            "allowed": {key: kind.phrase for key, kind in info.kinds.items()},
            "meanings": {key: MEANINGS[key] for key in info.hyperparameters if key in MEANINGS},
            "description": text,
        }
        listing.print_json(facts(info) | more)
        return
    rows = {
        "critic": "needed: a second adapter with a scalar head is trained" if info.needs_critic else "not needed",
        "completions": "at least two per prompt (num_generations)"
        if info.needs_groups
        else "one per prompt is enough",
        "greedy completion": "one is sampled and scored for each prompt" if info.needs_greedy else "",
        "whitening": "over the batch, by itself" if info.whitens else "",
        "loss": f"`loss_aggregation: {info.aggregation}` by default: {policy_gradient.AGGREGATIONS[info.aggregation]}",
        "ratio": f"`importance_sampling_level: {info.level}` by default: {policy_gradient.LEVELS[info.level]}",
        **{name: advantages.TENSORS[name] for name in info.inputs},
    }
    listing.print_page(info, rows, MEANINGS, advantages.NOTATION, text)
