"""`trl-ext cache`: show or clear the cached log-probabilities of reference models."""

import argparse
import time
from typing import Any

from trl_ext.support import terminal
from trl_ext.support.counts import count

HELP = "show or clear the cached reference log-probabilities"
EXAMPLES = """examples:
  trl-ext cache
  trl-ext cache --clear 3f9a
  trl-ext cache --clear

The cache is in $TRL_EXT_CACHE (default: ~/.cache/trl-ext/reference). A run that needs a removed entry computes it again.

exit code: 0 on success, 2 on a user error"""

EVERYTHING = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear",
        metavar="IDENTITY",
        nargs="?",
        const=EVERYTHING,
        help="remove the entry whose identity begins with IDENTITY; without IDENTITY remove all entries",
    )


def run(args: argparse.Namespace) -> int:
    from trl_ext.reference import folder

    directory = folder.default_directory()
    found = folder.entries(directory)
    if args.clear is not None:
        identity = None if args.clear == EVERYTHING else _chosen(args.clear, found)
        freed = folder.clear(directory, identity)
        print(f"Removed {size(freed)} from {directory}.")
        return 0
    if not found:
        print(f"Nothing is cached in {directory}.")
        return 0
    console = terminal.console()
    console.print(_table(found, time.time()))
    total = sum(entry.bytes for entry in found)
    limit = size(folder.default_limit())
    console.print(
        f"{size(total)} of {limit} used in {directory}. TRL_EXT_CACHE_GIB sets the limit.", style="dim", markup=False
    )
    return 0


def size(count: int) -> str:
    """Bytes in a unit with one to four digits: ``0 B``, ``12.3 MiB``."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min((max(count, 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{count / 1024**power:.{1 if power else 0}f} {units[power]}"


def ago(seconds: float) -> str:
    """A time span in its largest whole unit: ``5 minutes ago``."""
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"


def _chosen(beginning: str, found: list[Any]) -> str:
    from trl_ext.support.errors import UserError

    matches = [entry.identity for entry in found if entry.identity.startswith(beginning)]
    if len(matches) == 1 or beginning in matches:
        return beginning if beginning in matches else matches[0]
    if not found:
        raise UserError("The cache is empty.")
    known = ", ".join(matches or [entry.identity for entry in found])
    if matches:
        raise UserError(f"{beginning!r} matches {count(len(matches), 'entries')}: {known}. Give more characters.")
    raise UserError(f"No entry has an identity that begins with {beginning!r}. The cache holds {known}.")


def _table(found: list[Any], now: float) -> Any:
    from rich.text import Text

    table = terminal.plain_table()
    table.add_column("identity", style="bold", no_wrap=True)
    table.add_column("reference", ratio=1)
    for heading in ("completions", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    for entry in found:
        table.add_row(
            entry.identity[:12],
            Text(entry.about or "unknown"),
            f"{entry.rows:,}",
            size(entry.bytes),
            ago(now - entry.last_used),
        )
    return table
