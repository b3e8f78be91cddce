"""Tables and sections of advantages, objectives, aggregations and KL estimators, from their files."""

import inspect

from docs.cells import in_cell, paper
from trl_ext.rl import advantages, aggregation, objectives, truth_table


def table() -> str:
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
            f"| [`{name}`](#{name}) | {in_cell(info.formula)} | {'yes' if info.needs_critic else 'no'} | {completions} | {knobs} "
            f"| {paper(info.paper)} |"
        )
    return "\n".join([*lines, "", f"{advantages.NOTATION}."])


def pages() -> str:
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
            f"- Inputs: {inputs}. {paper(info.paper)}",
            f"- Defaults: `loss_aggregation: {info.aggregation}`, `importance_sampling_level: {info.level}`.",
            "",
            _dedented(text),
            "",
        ]
    return "\n".join(pages).rstrip()


def tensors() -> str:
    """The tensors that advantages read."""
    lines = ["| input | what it is |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {in_cell(meaning)} |" for name, meaning in advantages.TENSORS.items())])


def surrogates() -> str:
    """The losses of the policy per token, from the first line of their docstrings."""
    lines = ["| `policy_objective` | loss per token |", "|---|---|"]
    for name, function in objectives.SURROGATES.items():
        lines.append(f"| `{name}` | {in_cell(inspect.getdoc(function).split(chr(10))[0].rstrip('.'))} |")
    return "\n".join(lines)


def aggregations() -> str:
    """How losses per token become one number."""
    lines = ["| `loss_aggregation` | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {in_cell(meaning)} |" for name, meaning in aggregation.AGGREGATIONS.items()]
    return "\n".join(lines)


def kl() -> str:
    """The expected gradient of every KL estimator in every place."""
    lines = ["| estimator | place | level | expected gradient | |", "|---|---|---|---|---|"]
    for (estimator, placement, level), (gradient, remark) in truth_table.GRADIENTS.items():
        cell = (estimator, placement, level)
        name = f"**`{estimator}`**" if cell in truth_table.EXACT else f"`{estimator}`"
        lines.append(f"| {name} | {placement} | {level} | {in_cell(gradient)} | {remark} |")
    return "\n".join(lines)


def _dedented(text: str) -> str:
    """A docstring's paragraphs; indented lines would be code in Markdown."""
    return "\n".join(line.strip() for line in text.splitlines())
