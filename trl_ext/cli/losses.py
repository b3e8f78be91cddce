"""`trl-ext losses`: what can be given to `--loss`."""

import argparse
import json
from typing import Any

from trl_ext.cli import tables
from trl_ext.cli.arguments import plain

HELP = "list the losses"
EXAMPLES = """examples:
  trl-ext losses
  trl-ext losses --json"""

WIDE = 130
"""From this many columns on, hyperparameters get a column of their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def run(args: argparse.Namespace) -> int:
    from trl_ext import losses

    described = [losses.describe(name) for name in losses.available()]
    if args.json:
        print(json.dumps([facts(info) for info in described], indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(described, wide=console.width >= WIDE))
    console.print(losses.NOTATION, style="dim", markup=False)
    console.print("A mix: --loss '{dpo: 1, sft: 0.1}'", style="dim", markup=False)
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

    table = tables.plain()
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
