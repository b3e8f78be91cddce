"""`trl-ext doctor`: check the hardware, the installed packages and, if given, a recipe."""

import argparse
from typing import Any

from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.support import encoding, terminal

HELP = "check whether this computer is ready for training"
EXAMPLES = """examples:
  trl-ext doctor
  trl-ext doctor llama-3.1-8b-ipo
  trl-ext doctor demo --load_in_4bit false --json

Nothing is downloaded and the Hub is not contacted.

exit code: 0 if every check passes or only warns, 2 if a check fails or on a user error"""

STYLES = {"pass": ("✓", "green"), "warn": ("!", "bold yellow"), "fail": ("✗", "bold red")}
LABEL = 13
"""Width of the names of the checks, in columns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, is_optional=True)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from trl_ext import doctor

    findings = []
    console = terminal.console()
    for finding in doctor.examine(args.recipe, args.recipe_keys):
        findings.append(finding)
        if not args.json:
            console.print(_lines(finding))
    failing, warning = (sum(f.status == status for f in findings) for status in ("fail", "warn"))
    if args.json:
        print(encoding.as_json({"ok": not failing, "findings": [f.to_dict() for f in findings]}, indent=2))
    else:
        console.print(_verdict(failing, warning))
    return 2 if failing else 0


def _lines(finding: Any) -> Any:
    """A finding, with its remedy below."""
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
