"""Write the generated parts of the docs and draw their pictures; `--check` fails if they are out of date.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->` in a Markdown file; in the recipes for
real models, the line with GPU measurements in the header is generated.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks import losses as measured_losses
from benchmarks import soak
from benchmarks.gpu import results
from benchmarks.real import summary
from benchmarks.rl import table as updates
from docs import (
    advantage_pages,
    compatibility,
    demo_tables,
    kl_steps,
    loss_pages,
    measured,
    pictures,
    real_page,
    recipe_tables,
    seam_tables,
    soak_table,
    speed_table,
    step_tables,
)
from tests.trainers import adapter_cases
from trl_ext.cli import parsers
from trl_ext.cli.recipe_keys import ANY_KEY

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def verb_pages() -> str:
    """Every verb of the command line with its arguments and examples."""
    pages = []
    for name, parser in parsers()[1].items():
        pages += [f"## `trl-ext {name}`", "", parser.description, ""]
        pages += [f"- {_argument(action)}: {action.help}" for action in parser._actions if action.dest != "help"]
        pages += [f"- `--key value`: {ANY_KEY}"] * (parser.recipe is not None)
        examples, _, notes = parser.epilog.partition("\n\n")
        pages += ["", "```", examples, "```", "", notes, ""]
    return "\n".join(pages).rstrip()


def _argument(action: argparse.Action) -> str:
    """An argument as it is written on the command line."""
    return f"`{' '.join(filter(None, [*action.option_strings[-1:], action.metavar]))}`"


PARTS = {
    "demo": demo_tables.demo,
    "verbs": verb_pages,
    "losses": loss_pages.table,
    "lossguide": loss_pages.guide,
    "lossdemo": measured_losses.table,
    "advantages": advantage_pages.table,
    "advantagepages": advantage_pages.pages,
    "advantagetensors": advantage_pages.tensors,
    "surrogates": advantage_pages.surrogates,
    "aggregations": advantage_pages.aggregations,
    "adapters": adapter_cases.table,
    "quantised_adapters": adapter_cases.quantised,
    "losspages": loss_pages.pages,
    "formats": recipe_tables.formats_of_data,
    "seams": seam_tables.seams,
    "nexttrl": seam_tables.next_trl_parts,
    "announced": seam_tables.announced,
    "bypassed": seam_tables.bypassed,
    "methods": recipe_tables.methods,
    "recipes": recipe_tables.recipes,
    "settings": recipe_tables.settings,
    "evaluation": recipe_tables.evaluation,
    "search": recipe_tables.search,
    "speed": speed_table.table,
    "sampling": speed_table.of_sampling,
    "realstep": lambda: step_tables.full(step_tables.saved(step_tables.MODEL)),
    "benchmark": lambda: step_tables.random_model(step_tables.saved()),
    "rlupdate": lambda: updates.table(updates.saved()),
    "gpu": lambda: measured.tables(results.measured()),
    "soak": lambda: soak_table.table(json.loads(soak.RESULTS.read_text(encoding="utf-8"))),
    "kl": advantage_pages.kl,
    "klsteps": kl_steps.verdicts,
    "kldistances": kl_steps.distances,
    "frontier": demo_tables.frontier,
    "compatibility": compatibility.page,
    "real": lambda: real_page.sentence(summary.read()),
    "realtask": lambda: real_page.task_table(summary.read()),
    "realpreferences": lambda: real_page.preferences_table(summary.read()),
    "realcost": lambda: real_page.cost_table(summary.read()),
    "realanswers": lambda: real_page.answers(summary.read()),
}


def main(check: bool) -> int:
    real = summary.read()
    # The headers come first, as a table quotes them.
    stale = measured.headers(
        ROOT / "recipes", lambda name: real_page.header(name, real) or measured.header(name, results.measured()), check
    )
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", old)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    for picture in pictures.stale():
        stale.append(f"docs/{picture.name}")
        if not check:
            pictures.draw(picture)
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
