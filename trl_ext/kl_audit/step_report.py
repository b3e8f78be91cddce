"""Print what an optimizer step estimates: a table of advantages and aggregations, and sentences about one recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.text import Text

from trl_ext.rl import step_table
from trl_ext.rl.step_table import Step
from trl_ext.support import terminal

TITLES = {"reward": "k1 in the reward, per token", "loss": "k2 or k3+ in the loss, at sequence level"}
COLOURS = {
    step_table.EXACT: "green",
    step_table.FACTOR: "green",
    step_table.LARGE_BATCH: "green",
    step_table.OTHER_COEFFICIENT: "yellow",
    step_table.SAME_OPTIMUM: "yellow",
    step_table.BIASED: "red",
}


def table(chosen: Step | None) -> Any:
    """Verdicts by advantage and loss aggregation; the entry of the recipe is marked with ◀."""
    mark = step_table.entry(chosen) if chosen is not None else None
    made = terminal.plain_table(
        title="an optimizer step: expected gradient, by advantage and loss aggregation", title_justify="left"
    )
    made.add_column("")
    for aggregation in step_table.AGGREGATIONS:
        made.add_column(aggregation, no_wrap=True)
    for placement, title in TITLES.items():
        made.add_row(Text(title, style="bold"))
        rows = step_table.rows(placement)
        for name, steps in rows:
            made.add_row(f"  {name}", *(_entry(step, step == mark) for step in steps), end_section=name == rows[-1][0])
    return made


def _entry(step: Step, is_marked: bool) -> Text:
    verdict = step_table.judge(step).verdict
    return Text(step_table.SHORT[verdict] + " ◀" * is_marked, style=COLOURS[verdict])


def legend() -> list[str]:
    """What the entries mean, one line each."""
    return [f"{step_table.SHORT[verdict]}: {meaning}" for verdict, meaning in step_table.VERDICTS.items()]


def about(step: Step) -> list[str]:
    """Sentences about the step of a recipe, one line each: its settings, what it estimates, and why."""
    found = step_table.judge(step)
    if found is None:
        return [settings(step), *_unknown(step)]
    instead = [step_table.remedy(step)] if found.verdict == step_table.BIASED else []
    return [settings(step), found.meaning, *(f"  - {reason}" for reason in found.reasons), *instead]


def settings(step: Step) -> str:
    """The settings in words."""
    scale = f", scale_rewards {step.scale_rewards}" if step.advantage == "grpo" else ""
    whitened = ", whitened over the batch" if step.is_whitened else ""
    ratio = "" if step.ratio_level == "token" else f", ratio of the {step.ratio_level}"
    return (
        f"this recipe: {step.estimator} in the {step.placement} at {step.cell[2]} level, advantage {step.advantage}{scale}"
        f"{whitened}{ratio}, loss aggregation {step.aggregation}"
    )


def _unknown(step: Step) -> list[str]:
    from trl_ext.kl_audit.steps import classify

    found = classify(step)
    return [
        f"The advantage {step.advantage} is not in the table. By enumeration: {step_table.VERDICTS[found.verdict]}"
    ]


def facts(chosen: Step | None) -> dict[str, Any]:
    """The table and the recipe's step as JSON."""
    rows = [
        {
            "placement": placement,
            "advantage": step.advantage,
            "scale_rewards": step.scale_rewards if step.advantage == "grpo" else None,
            "aggregation": step.aggregation,
            "verdict": step_table.judge(step).verdict,
        }
        for placement in TITLES
        for _, steps in step_table.rows(placement)
        for step in steps
    ]
    return {"steps": rows} | ({"step": _facts_about(chosen)} if chosen is not None else {})


def _facts_about(step: Step) -> dict[str, Any]:
    from trl_ext.kl_audit.steps import classify

    found, measured = step_table.judge(step), classify(step)
    return {
        "settings": dataclasses.asdict(step) | {"level": step.cell[2]},
        "verdict": found and found.verdict,
        "kl_coef": found and found.coefficient,
        "meaning": found and found.meaning,
        "reasons": found and found.reasons,
        "enumerated": dataclasses.asdict(measured),
    }
