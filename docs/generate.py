"""Write the generated parts of the docs and draw their pictures; `--check` fails if they are out of date.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->` in a Markdown file; in the recipes for
real models, the line with GPU measurements in the header is generated.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import losses as measured_losses
from benchmarks import soak
from benchmarks.gpu import results
from benchmarks.real import summary
from benchmarks.rl import table as updates
from docs import compatibility, kl_steps, measured, pictures, real_page, soak_table, step_tables
from tests.seams import SEAMS
from tests.trainers import adapter_cases
from tests.trainers.test_overrides import OVERRIDES
from trl_ext import losses
from trl_ext.checks import evaluation_parts
from trl_ext.cli import parsers
from trl_ext.cli.losses import running_values
from trl_ext.cli.recipe_keys import ANY_KEY
from trl_ext.data import formats
from trl_ext.methods import METHODS
from trl_ext.recipe import schema, shipped
from trl_ext.recipe.extras import DataExtras, ModelExtras, RunExtras
from trl_ext.rl import advantages, aggregation, objectives, truth_table
from trl_ext.trainers.common import overrides as refused
from trl_ext.trainers.preference.config import PairedPreferenceConfig, UnpairedPreferenceConfig

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def loss_table() -> str:
    """Every loss: formula, data, reference, hyperparameters with defaults, paper."""
    lines = ["| loss | formula | data | reference | hyperparameters | paper |", "|---|---|---|---|---|---|"]
    for name in losses.available():
        info = losses.describe(name)
        knobs = ", ".join(f"`{key}` {value}" for key, value in info.hyperparameters.items()) or "none"
        paper = f"[{info.paper}](https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')})"
        lines.append(
            f"| `{name}` | {info.formula.replace('|', chr(92) + '|')} | {'pairs' if info.paired else 'labelled completions'} "
            f"| {'yes' if info.needs_reference else 'no'} | {knobs} | {paper} |"
        )
    return "\n".join([*lines, "", f"{losses.NOTATION}."])


def loss_guide() -> str:
    """For which data and worry to choose each loss, those for pairs first."""
    lines = ["| data | choose it if | loss | reference pass |", "|---|---|---|---|"]
    for info in sorted(map(losses.describe, losses.available()), key=lambda info: not info.paired):
        lines.append(
            f"| {'pairs' if info.paired else 'labelled completions'} | {info.when} | [`{info.name}`](#{info.name}) "
            f"| {'yes' if info.needs_reference else 'no'} |"
        )
    return "\n".join(lines)


def loss_pages() -> str:
    """A section for every loss, from the docstrings and constants of its file."""
    pages = []
    for name in losses.available():
        module = importlib.import_module(f"trl_ext.losses.{name}")
        info = losses.describe(name)
        paper = f"[{info.paper}](https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')})"
        start = inspect.getdoc(getattr(module, "initial_value", None)) or "depends on the data"
        pages += [
            f"## `{name}`",
            "",
            f"{inspect.getdoc(module)}",
            "",
            f"    {info.formula}",
            "",
            f"- Reduction: {module.REDUCTION}.",
            f"- Unit of beta: {module.BETA_UNIT}." if getattr(module, "BETA_UNIT", None) else None,
            f"- Value at policy = reference: {start.rstrip('.')}.",
            f"- Inputs: {', '.join(f'`{tensor}`' for tensor in info.inputs)}. {paper}",
            f"- Running values: {running_values(info)}." if info.state else None,
            "",
            inspect.getdoc(getattr(module, name)),
            "",
        ]
    return "\n".join(line for line in pages if line is not None).rstrip()


def advantage_table() -> str:
    """Every advantage: formula, what it needs, hyperparameters with defaults, paper."""
    lines = [
        "| advantage | formula | critic | completions per prompt | hyperparameters | paper |",
        "|---|---|---|---|---|---|",
    ]
    for name in advantages.available():
        info = advantages.describe(name)
        knobs = ", ".join(f"`{key}` {value}" for key, value in info.hyperparameters.items()) or "none"
        completions = (
            "2 or more" if info.needs_groups else "1 or more, and a greedy one" if info.needs_greedy else "1 or more"
        )
        lines.append(
            f"| [`{name}`](#{name}) | {_in_cell(info.formula)} | {'yes' if info.needs_critic else 'no'} | {completions} | {knobs} "
            f"| {_paper(info)} |"
        )
    return "\n".join([*lines, "", f"{advantages.NOTATION}."])


def advantage_pages() -> str:
    """A section for every advantage, from the docstrings and constants of its file."""
    pages = []
    for name in advantages.available():
        info = advantages.describe(name)
        text = inspect.getdoc(advantages.get(name)).split("\n\nArgs:")[0]
        inputs = ", ".join(f"`{tensor}`" for tensor in info.inputs)
        pages += [
            f"## `{name}`",
            "",
            info.summary,
            "",
            f"    {info.formula}",
            "",
            f"- Inputs: {inputs}. {_paper(info)}",
            f"- Defaults: `loss_aggregation: {info.aggregation}`, `importance_sampling_level: {info.level}`.",
            "",
            _dedented(text),
            "",
        ]
    return "\n".join(pages).rstrip()


def tensor_table() -> str:
    """The tensors that advantages read."""
    lines = ["| input | what it is |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| `{name}` | {_in_cell(meaning)} |" for name, meaning in advantages.TENSORS.items())]
    )


def surrogate_table() -> str:
    """The losses of the policy per token, from the first line of their docstrings."""
    lines = ["| `policy_objective` | loss per token |", "|---|---|"]
    for name, function in objectives.SURROGATES.items():
        lines.append(f"| `{name}` | {_in_cell(inspect.getdoc(function).split(chr(10))[0].rstrip('.'))} |")
    return "\n".join(lines)


def aggregation_table() -> str:
    """How losses per token become one number."""
    lines = ["| `loss_aggregation` | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {_in_cell(meaning)} |" for name, meaning in aggregation.AGGREGATIONS.items()]
    return "\n".join(lines)


def _paper(info: Any) -> str:
    return f"[{info.paper}](https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')})"


def _in_cell(text: str) -> str:
    """Text for a cell of a table: a bar would end the cell."""
    return text.replace("|", "\\|")


def _dedented(text: str) -> str:
    """A docstring's paragraphs; indented lines would be code in Markdown."""
    return "\n".join(line.strip() for line in text.splitlines())


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


def seam_table() -> str:
    """Every override and every use of another library's internals, by file, with the test that fails when it moves."""
    found: dict[str, dict[str, str]] = {}
    for trainer, overrides in OVERRIDES.items():
        for name, test in overrides.items():
            for cls in trainer.__mro__:
                if cls.__module__.startswith("trl_ext.") and name in vars(cls):
                    file = cls.__module__.removeprefix("trl_ext.").replace(".", "/") + ".py"
                    found.setdefault(file, {})[f"`{name}`"] = test
    rows = [
        (file, f"overrides {', '.join(sorted(tests))}", sorted(set(tests.values())))
        for file, tests in sorted(found.items())
    ]
    rows += [(seam.file, seam.relies_on, [seam.test]) for seam in SEAMS]
    lines = ["| file in `trl_ext/` | relies on | tests, in `tests/` |", "|---|---|---|"]
    lines += [f"| `{file}` | {relies} | {', '.join(f'`{test}`' for test in tests)} |" for file, relies, tests in rows]
    return "\n".join(lines)


def bypassed_table() -> str:
    """Methods of TRL's trainers that are refused in a subclass."""
    kinds = {"preferences": refused.OF_ROWS, "sampled pairs": refused.OF_LOSSES, "PPO": refused.OF_PPO}
    rows: dict[str, dict[str, list[str]]] = {}
    for kind, bypassed in kinds.items():
        for name, remedy in bypassed.items():
            rows.setdefault(remedy, {}).setdefault(name, []).append(kind)
    lines = ["| method | in training on | instead |", "|---|---|---|"]
    for remedy, methods in rows.items():
        for trained in dict.fromkeys(map(tuple, methods.values())):
            names = ", ".join(f"`{name}`" for name, own in methods.items() if tuple(own) == trained)
            lines.append(f"| {names} | {', '.join(trained)} | {remedy} |")
    older: dict[str, list[str]] = {}
    for name, remedy in refused.OF_OLDER_TRL.items():
        older.setdefault(remedy, []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} (older TRL) | preferences | {remedy} |" for remedy, names in older.items()]
    return "\n".join(lines)


def format_table() -> str:
    """Every format of preference data that is recognised."""
    lines = ["| `dataset_format` | what it is | columns |", "|---|---|---|"]
    for format in formats.FORMATS:
        lines.append(f"| `{format.NAME}` | {format.TITLE} | {format.NEEDS} |")
    return "\n".join(lines)


def method_table() -> str:
    """Every kind of training: how a recipe chooses it, and the data it learns from."""
    lines = ["| `trainer` | trains | learns from |", "|---|---|---|"]
    for method in METHODS.values():
        chosen = "none; `loss` decides" if method.is_default else f"`{method.name}`"
        lines.append(f"| {chosen} | {method.title} | {READS[method.reads]} |")
    return "\n".join(lines)


READS = {
    "pairs": "pairs of a chosen and a rejected completion",
    "labelled": "completions labelled desirable or undesirable; pairs become two of them",
    "prompts": "prompts; completions are sampled and scored",
    "demonstrations": "completions to imitate, or the chosen ones of pairs",
}


def recipe_table() -> str:
    """Every shipped recipe with its model, what it trains, its hardware and what was measured."""
    lines = ["| recipe | model | trains | on | hardware | measured peak and time |", "|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = shipped.describe(path)
        lines.append(
            f"| [{recipe.name}](../recipes/{path.name}) | {recipe.model_name} | {recipe.trains} | {recipe.data} | {recipe.hardware} "
            f"| {recipe.measured} |"
        )
    return "\n".join(lines)


def settings_table() -> str:
    """Keys of preference recipes that TRL lacks, or that have another meaning or default than in TRL."""
    lines = ["| key | default | what it does |", "|---|---|---|"]
    classes = (PairedPreferenceConfig, UnpairedPreferenceConfig, ModelExtras, DataExtras, RunExtras)
    ours = {
        name
        for cls in classes
        for part in cls.__mro__
        if part.__module__.startswith("trl_ext")
        for name in vars(part).get("__annotations__", ())
    }
    fields = {
        field.name: field for cls in classes for field in dataclasses.fields(cls) if field.name in ours - LOSS_FIELDS
    }
    for name, field in sorted(fields.items()):
        default = (
            ""
            if field.default in (None, dataclasses.MISSING)
            else f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        )
        lines.append(f"| `{name}` | {default} | {field.metadata.get('help', '')} |")
    return "\n".join(lines)


LOSS_FIELDS = {
    "loss_type", "beta", "label_smoothing", "discopop_tau", "f_divergence_type", "f_alpha_divergence_coef",
    "desirable_weight", "undesirable_weight",
}  # fmt: skip
"""TRL's fields for hyperparameters of a loss: unset here, as each loss has its own defaults."""


def kl_table() -> str:
    """The expected gradient of every KL estimator in every place."""
    lines = ["| estimator | place | level | expected gradient | |", "|---|---|---|---|---|"]
    for (estimator, placement, level), (gradient, remark) in truth_table.GRADIENTS.items():
        cell = (estimator, placement, level)
        name = f"**`{estimator}`**" if cell in truth_table.EXACT else f"`{estimator}`"
        lines.append(f"| {name} | {placement} | {level} | {gradient.replace('|', chr(92) + '|')} | {remark} |")
    return "\n".join(lines)


def frontier_table() -> str:
    """Every measured policy of the reward–KL frontier, with the best possible reward at its KL."""
    record = json.loads((ROOT / "benchmarks" / "results" / "frontier.json").read_text(encoding="utf-8"))
    lines = [
        "| method | coefficient | KL | true reward | best of n at that KL | optimum at that KL | sentences that parse |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["table"]:
        lines.append(
            f"| {row['method']} | `{row['coefficient']}` | {row['kl']:.2f} ± {row['kl_se']:.2f} "
            f"| {row['reward']:.3f} ± {row['reward_se']:.3f} | {row['best_of_n']:.3f} | {row['optimum']:.3f} "
            f"| {row['fluency']:.3f} |"
        )
    return "\n".join([*lines, "", f"± one standard error; measured {record['date']} on {record['device']}."])


def demo_table() -> str:
    """The demo's result for four losses, each the mean of two seeds."""
    record = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    keys = ("score/true reward", "score/sentences that parse", "kl")
    lines = ["| | true reward | sentences that parse | KL to the base, nats |", "|---|---|---|---|"]
    groups = {"before": [record["base"]]}
    for row in record["rows"]:
        groups.setdefault(f"`{row['loss']}`", []).append(row)
    for name, rows in groups.items():
        values = [sum(row[key]["value"] for row in rows) / len(rows) for key in keys]
        lines.append("| {} | {:.3f} | {:.3f} | {:.2f} |".format(name, *values))
    return "\n".join(
        [
            *lines,
            "",
            f"Mean of two seeds; {record['completions']} held-out prompts; measured {record['date']} on a CPU.",
        ]
    )


def evaluation_table() -> str:
    """Every entry of `evaluation`, and the part of an evaluation that reads it."""
    lines = ["| entry | read by | what it does |", "|---|---|---|"]
    for name, field in schema.fields("EvaluationKeys").items():
        parts = ", ".join(part for part, keys in evaluation_parts.READS.items() if name in keys)
        lines.append(f"| `{name}` | {parts} | {field.help} |")
    return "\n".join(lines)


PARTS = {
    "demo": demo_table,
    "verbs": verb_pages,
    "losses": loss_table,
    "lossguide": loss_guide,
    "lossdemo": measured_losses.table,
    "advantages": advantage_table,
    "advantagepages": advantage_pages,
    "advantagetensors": tensor_table,
    "surrogates": surrogate_table,
    "aggregations": aggregation_table,
    "adapters": adapter_cases.table,
    "quantised_adapters": adapter_cases.quantised,
    "losspages": loss_pages,
    "formats": format_table,
    "seams": seam_table,
    "bypassed": bypassed_table,
    "methods": method_table,
    "recipes": recipe_table,
    "settings": settings_table,
    "evaluation": evaluation_table,
    "speed": lambda: step_tables.short(step_tables.saved(step_tables.MODEL)),
    "realstep": lambda: step_tables.full(step_tables.saved(step_tables.MODEL)),
    "benchmark": lambda: step_tables.random_model(step_tables.saved()),
    "rlupdate": lambda: updates.table(updates.saved()),
    "rlspeed": lambda: updates.table(updates.saved(), ways=(updates.NARROW,)),
    "gpu": lambda: measured.tables(results.measured()),
    "soak": lambda: soak_table.table(json.loads(soak.RESULTS.read_text(encoding="utf-8"))),
    "kl": kl_table,
    "klsteps": kl_steps.verdicts,
    "kldistances": kl_steps.distances,
    "frontier": frontier_table,
    "compatibility": compatibility.page,
    "real": lambda: real_page.short_table(summary.read()),
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
