"""`trl-ext losses`: list the losses that `--loss` takes, or explain one."""

import argparse
import importlib
import inspect
from typing import Any

from trl_ext.cli import completion, listing

HELP = "list the losses, or explain one"
EXAMPLES = listing.examples("losses", "ipo")

MEANINGS = {
    "beta": "β, the strength of the pull towards the preference",
    "label_smoothing": "ε, the assumed share of pairs with swapped labels",
    "gamma": "γ, the target margin",
    "gamma_beta_ratio": "γ/β, the target margin divided by β",
    "alpha": "α, the curvature of the reward; 0 gives the mean log-prob",
    "average": "divide each log-ratio by its completion's tokens (the bar of the formula)",
    "tpo_alpha": "α, the weight of the gold completion's likelihood",
    "eta": "η, nats per unit of the data's rewards",
    "distance": "how βh and ηm are compared; the formula above is backward_kl",
    "delta_momentum": "1: δ is the mean over all steps so far; below 1: an exponential moving average",
    "cpo_alpha": "α, the weight of the chosen completion's likelihood",
    "desirable_weight": "λ_D, the weight of desirable completions",
    "undesirable_weight": "λ_U, the weight of undesirable completions",
    "dynamic_alpha": "α, the growth of β per nat by which the mean margin of a step exceeds M₀; 0 is dpo",
    "adaptive_alpha": "α, how much the target margin follows the pair's own margin; 0 is simpo",
    "margin_momentum": "m, the weight of the steps before in the moving averages",
    "tdpo_alpha": "α, the weight of the difference of the sequential KL divergences; 0 is dpo",
    "dpop_lambda": "λ, the penalty on a chosen completion that is less likely than under the reference",
    "focal_gamma": "γ, how much less a wrongly ranked pair weighs; 0 is dpo",
    "discopop_tau": "τ, the temperature of the sigmoid that blends the two losses",
    "loss_form": "the form of the preference term; the formula above is the default",
    "f_divergence_type": "the divergence from the reference; for all but reverse_kl, f′ replaces Δ",
    "f_alpha_divergence_coef": "α of the alpha divergence",
}
"""Meaning of hyperparameters that several losses share. A loss explains its other hyperparameters in its own text."""

BASELINE = "z, the KTO baseline: the mean Δ of completions paired with other prompts, at least 0, without gradient"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listing.add_arguments(parser, "loss", completion.losses)


def run(args: argparse.Namespace) -> int:
    from trl_ext import losses

    if args.name is not None:
        _explain(listing.described(losses, args.name), is_json=args.json)
        return 0
    infos = [losses.describe(name) for name in losses.available()]
    if args.json:
        listing.print_json([facts(info) for info in infos])
        return 0
    columns = {
        "data": lambda info: "pairs" if info.paired else "single",
        "ref": lambda info: "yes" if info.needs_reference else "no",
    }
    listing.print_table(
        lambda wide: listing.names_and_formulas(infos, wide, "loss", columns),
        losses.NOTATION,
        "A weighted sum of losses: --loss '{dpo: 1, sft: 0.1}'",
    )
    return 0


def facts(info: Any) -> dict[str, Any]:
    """A `trl_ext.losses.LossInfo` as plain data."""
    return {
        "name": info.name,
        "aliases": list(info.aliases),
        "formula": info.formula,
        "data": "pairs" if info.paired else "single",
        "needs_reference": info.needs_reference,
        "inputs": list(info.inputs),
        "hyperparameters": info.hyperparameters,
        "reduction": info.reduction,
        "beta_unit": info.beta_unit,
        "choose_it_if": info.when,
        "coupled": info.coupled,
        "state": info.state,
        "paper": info.paper,
    }


def running_values(info: Any) -> str:
    """The values that a loss keeps from step to step, and where they come from; empty for most losses."""
    source = (
        "computed once from the training set" if info.starts_from_data else "kept by the trainer and its checkpoints"
    )
    return f"{', '.join(info.state)} ({source})" if info.state else ""


def _explain(info: Any, *, is_json: bool) -> None:
    """Print one loss: formula, notation, inputs, reduction, hyperparameters and description.

    Args:
        info: A `trl_ext.losses.LossInfo`.
    """
    from trl_ext import losses

    value = losses.get(info.name).initial_value
    module = importlib.import_module(f"trl_ext.losses.{info.name}")
    start = inspect.getdoc(getattr(module, "initial_value", None)) or "it depends on the data"
    text = inspect.getdoc(getattr(module, info.name))
    if is_json:
        more = {
            "summary": info.summary,
            "notation": losses.NOTATION,
            "allowed": {key: kind.phrase for key, kind in info.kinds.items()},
            "meanings": {key: MEANINGS[key] for key in info.hyperparameters if key in MEANINGS},
            "initial_value": value,
            "at_the_start": start,
            "description": text,
        }
        listing.print_json(facts(info) | more)
        return
    shown = start.rstrip(".")
    rows = {
        "choose it if": info.when,
        "also called": ", ".join(info.aliases),
        "data": "pairs of a chosen and a rejected completion" if info.paired else "single completions with a label",
        "reference": "needed" if info.needs_reference else "not needed, so no reference pass",
        "inputs": ", ".join(info.inputs),
        "running values": running_values(info),
        "reduction": info.reduction,
        "unit of beta": info.beta_unit,
        "at policy = reference": shown if value is None else f"{value:.4g} with the defaults ({shown})",
    }
    baseline = f"; {BASELINE}" if "z_ref" in info.inputs else ""
    listing.print_page(info, rows, MEANINGS, f"{losses.NOTATION}{baseline}", text)
