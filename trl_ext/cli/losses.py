"""`trl-ext losses`: list the losses that `--loss` takes, or explain one."""

import argparse
import importlib
import inspect
from typing import Any

from trl_ext.cli import completion
from trl_ext.support import encoding, terminal
from trl_ext.support.errors import UserError
from trl_ext.support.messages import plain

HELP = "list the losses, or explain one"
EXAMPLES = """examples:
  trl-ext losses
  trl-ext losses ipo
  trl-ext losses --json

exit code: 0 on success, 2 on a user error"""

WIDE = 130
"""Columns from which hyperparameters have a column of their own."""
NARROWEST = 80
"""Columns that the table needs: with fewer, names and numbers would be cut."""


MEANINGS = {
    "beta": "β, the strength of the pull towards the preference",
    "label_smoothing": "ε, the assumed share of pairs with swapped labels",
    "gamma": "γ, the target margin",
    "gamma_beta_ratio": "γ/β, the target margin divided by β",
    "alpha": "α, the curvature of the reward; 0 gives the mean log-prob",
    "average": "divide each log-ratio by its completion's tokens (the bar of the formula)",
    "cpo_alpha": "α, the weight of the chosen completion's likelihood",
    "desirable_weight": "λ_D, the weight of desirable completions",
    "undesirable_weight": "λ_U, the weight of undesirable completions",
    "discopop_tau": "τ, the temperature of the sigmoid that blends the two losses",
    "loss_form": "the form of the preference term; the formula above is the default",
    "f_divergence_type": "the divergence from the reference; for all but reverse_kl, f′ replaces Δ",
    "f_alpha_divergence_coef": "α of the alpha divergence",
}
"""Meaning of hyperparameters that several losses share. A loss explains its other hyperparameters in its own text."""

BASELINE = "z, the KTO baseline: the mean Δ of completions paired with other prompts, at least 0, without gradient"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument("name", metavar="NAME", nargs="?", help="explain this loss")
    name.completer = completion.losses
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from trl_ext import losses

    if args.name is not None:
        _explain(args.name, is_json=args.json)
        return 0
    described = [losses.describe(name) for name in losses.available()]
    if args.json:
        print(encoding.as_json([facts(info) for info in described], indent=2))
        return 0
    from rich.console import Console

    console = Console(highlight=False, width=max(Console().width, NARROWEST))
    console.print(_table(described, wide=console.width >= WIDE))
    console.print(losses.NOTATION, style="dim", markup=False)
    console.print("A weighted sum of losses: --loss '{dpo: 1, sft: 0.1}'", style="dim", markup=False)
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
        "coupled": info.coupled,
        "paper": info.paper,
    }


def _explain(name: str, *, is_json: bool) -> None:
    """Print one loss: formula, notation, inputs, reduction, hyperparameters and description.

    Raises:
        UserError: There is no such loss.
    """
    from trl_ext import losses

    try:
        info = losses.describe(name.lower())
    except ValueError as error:
        raise UserError(str(error)) from error
    loss, module = losses.get(info.name), importlib.import_module(f"trl_ext.losses.{info.name}")
    start = inspect.getdoc(getattr(module, "initial_value", None)) or "it depends on the data"
    text = inspect.getdoc(getattr(module, info.name))
    if is_json:
        more = {
            "summary": info.summary,
            "notation": losses.NOTATION,
            "allowed": {key: kind.phrase for key, kind in info.kinds.items()},
            "meanings": {key: MEANINGS[key] for key in info.hyperparameters if key in MEANINGS},
            "initial_value": loss.initial_value,
            "at_the_start": start,
            "description": text,
        }
        print(encoding.as_json(facts(info) | more, indent=2))
        return
    console = terminal.console(markup=False)
    console.print(info.summary, style="bold")
    console.print(f"\n    {info.formula}\n")
    console.print(_facts_table(info, loss.initial_value, start.rstrip(".")))
    if info.hyperparameters:
        console.print(_knobs(info))
    baseline = f"; {BASELINE}" if "z_ref" in info.inputs else ""
    console.print(f"{losses.NOTATION}{baseline}.\n", style="dim")
    for paragraph in text.split("\n\n"):
        console.print(" ".join(paragraph.split()), end="\n\n")


def _facts_table(info: Any, value: float | None, start: str) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    rows = {
        "also called": ", ".join(info.aliases),
        "data": "pairs of a chosen and a rejected completion" if info.paired else "single completions with a label",
        "reference": "needed" if info.needs_reference else "not needed, so no reference pass",
        "inputs": ", ".join(info.inputs),
        "reduction": info.reduction,
        "unit of beta": info.beta_unit,
        "at policy = reference": start if value is None else f"{value:.4g} with the defaults ({start})",
        "paper": f"https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')}",
    }
    for name, shown in rows.items():
        if shown:
            table.add_row(name, shown)
    return table


def _knobs(info: Any) -> Any:
    """A row for each hyperparameter: default, meaning, allowed values and when it applies."""
    table = terminal.plain_table()
    table.add_column("hyperparameter", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("meaning")
    for key, value in info.hyperparameters.items():
        parts = [MEANINGS.get(key, ""), info.kinds[key].phrase]
        if key in info.only_with:
            parts.append("only with {}: {}".format(*info.only_with[key]))
        parts += [
            f"instead of {' or '.join(other for other in group if other != key)}"
            for group in info.exclusive
            if key in group
        ]
        table.add_row(key, "none" if value is None else plain(value), "; ".join(filter(None, parts)))
    return table


def _hyperparameters(info: Any) -> str:
    """``beta 2.0, gamma_beta_ratio 0.25 (or gamma)``: names with defaults, alternatives in parentheses."""
    alternatives = {key: [other for other in group if other != key] for group in info.exclusive for key in group}
    return ", ".join(
        f"{key} {plain(value)}" + (f" (or {', '.join(alternatives[key])})" if key in alternatives else "")
        for key, value in info.hyperparameters.items()
        if value is not None
    )


def _table(described: list[Any], wide: bool) -> Any:
    from rich.text import Text

    table = terminal.plain_table()
    table.add_column("loss", style="bold", no_wrap=True)
    table.add_column("formula" if wide else "formula, hyperparameters", ratio=3)
    if wide:
        table.add_column("hyperparameters", ratio=2)
    table.add_column("data", no_wrap=True)
    table.add_column("ref", no_wrap=True)
    table.add_column("arXiv", no_wrap=True)
    for info in described:
        parameters = Text(_hyperparameters(info), style="dim")
        cells = [Text(info.formula), parameters] if wide else [Text.assemble(info.formula, "\n", parameters)]
        table.add_row(
            Text.assemble(info.name, *((f"\n= {alias}", "not bold dim") for alias in info.aliases)),
            *cells,
            "pairs" if info.paired else "single",
            "yes" if info.needs_reference else "no",
            info.paper.removeprefix("arXiv:"),
        )
    return table
