"""Writes the generated parts of the docs; `--check` fails if they are out of date.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->` in a Markdown file.
"""

import re
import sys
from pathlib import Path

from trl_ext import losses

ROOT = Path(__file__).parents[1]
FILES = ("README.md",)
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def loss_table() -> str:
    """Every loss: formula, data, reference, hyperparameters with defaults, paper."""
    lines = ["| loss | formula | data | reference | hyperparameters | paper |", "|---|---|---|---|---|---|"]
    for name in losses.available():
        info = losses.describe(name)
        knobs = ", ".join(f"`{key}` {value}" for key, value in info.hyperparameters.items()) or "none"
        paper = f"[{info.paper}](https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')})"
        lines.append(
            f"| `{name}` | {info.formula.replace('|', chr(92) + '|')} | {'pairs' if info.paired else 'labelled answers'} "
            f"| {'yes' if info.needs_reference else 'no'} | {knobs} | {paper} |"
        )
    return "\n".join([*lines, "", f"{losses.NOTATION}."])


PARTS = {"losses": loss_table}


def main(check: bool) -> int:
    stale = []
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", old)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
