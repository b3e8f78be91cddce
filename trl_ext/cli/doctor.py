"""`trl-ext doctor`: what this computer, and a recipe, need before a run works."""

import argparse
import json
from typing import Any

from trl_ext.cli.arguments import overrides
from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "look whether this computer, and a recipe on it, are ready"
EXAMPLES = """examples:
  trl-ext doctor
  trl-ext doctor recipes/llama-3.1-8b-ipo.yaml
  trl-ext doctor recipes/demo.yaml --load_in_4bit false --json

Nothing is downloaded, and the Hub is not asked. exit code: 0 if nothing fails, 2 otherwise"""

STYLES = {"pass": ("✓", "green"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}
LABEL = 13
"""Columns for what was looked at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file to judge too")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument(
        "overrides", metavar="--key value", nargs=argparse.REMAINDER, help="any key of a recipe; wins over the file"
    )


def run(args: argparse.Namespace) -> int:
    values = overrides(args.overrides)
    as_json = values.pop("json", args.json)
    if values and args.recipe is None:
        raise UserError(f"--{next(iter(values))} is a key of a recipe: name the recipe first.")
    from trl_ext import doctor

    findings = []
    console = terminal.console()
    for finding in doctor.examine(args.recipe, values):
        findings.append(finding)
        if not as_json:
            console.print(_lines(finding))
    failing, warning = (sum(f.status == status for f in findings) for status in ("fail", "warn"))
    if as_json:
        print(
            json.dumps({"ok": not failing, "findings": [f.to_dict() for f in findings]}, indent=2, ensure_ascii=False)
        )
    else:
        console.print(_verdict(failing, warning))
    return 2 if failing else 0


def _lines(finding: Any) -> Any:
    """A finding, and below it what to do."""
    from rich.table import Table
    from rich.text import Text

    mark, style = STYLES[finding.status]
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(width=LABEL, no_wrap=True)
    table.add_column()
    is_good = finding.status == "pass"
    table.add_row(Text(mark, style), Text(finding.check, "dim" if is_good else style), Text(finding.found))
    if finding.remedy:
        table.add_row("", "", Text(f"→ {finding.remedy}", "cyan"))
    return table


def _verdict(failing: int, warning: int) -> Any:
    from rich.text import Text

    def counted(count: int, word: str) -> str:
        return f"{count} {word}{'s' * (count != 1)}"

    if failing:
        more = f", {counted(warning, 'warning')}" if warning else ""
        return Text(f"{counted(failing, 'problem')} to solve{more}.", "bold red")
    return Text(f"Ready, with {counted(warning, 'warning')}." if warning else "Ready.", "bold green")
