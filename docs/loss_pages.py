"""Tables and sections of the losses, from their files."""

import importlib
import inspect

from docs.cells import in_cell, paper
from trl_ext import losses
from trl_ext.cli.losses import running_values


def table() -> str:
    """Every loss: formula, data, reference, hyperparameters with defaults, paper."""
    lines = ["| loss | formula | data | reference | hyperparameters | paper |", "|---|---|---|---|---|---|"]
    for name in losses.available():
        info = losses.describe(name)
        knobs = ", ".join(f"`{key}` {value}" for key, value in info.hyperparameters.items()) or "none"
        lines.append(
            f"| `{name}` | {in_cell(info.formula)} | {'pairs' if info.paired else 'labelled completions'} "
            f"| {'yes' if info.needs_reference else 'no'} | {knobs} | {paper(info.paper)} |"
        )
    return "\n".join([*lines, "", f"{losses.NOTATION}."])


def guide() -> str:
    """For which data and worry to choose each loss, those for pairs first."""
    lines = ["| data | choose it if | loss | reference pass |", "|---|---|---|---|"]
    for info in sorted(map(losses.describe, losses.available()), key=lambda info: not info.paired):
        lines.append(
            f"| {'pairs' if info.paired else 'labelled completions'} | {info.when} | [`{info.name}`](#{info.name}) "
            f"| {'yes' if info.needs_reference else 'no'} |"
        )
    return "\n".join(lines)


def pages() -> str:
    """A section for every loss, from the docstrings and constants of its file."""
    pages = []
    for name in losses.available():
        module = importlib.import_module(f"trl_ext.losses.{name}")
        info = losses.describe(name)
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
            f"- Inputs: {', '.join(f'`{tensor}`' for tensor in info.inputs)}. {paper(info.paper)}",
            f"- Running values: {running_values(info)}." if info.state else None,
            "",
            inspect.getdoc(getattr(module, name)),
            "",
        ]
    return "\n".join(line for line in pages if line is not None).rstrip()
