"""Tables of what optimizer steps make of the gradient of a KL: verdicts, and distances from the optimum after training."""

import json
from pathlib import Path

from trl_ext.rl import step_table

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "kl_steps.json"
AGGREGATIONS = ("sum", "sequence")
"""The aggregations of the table of distances. `constant` has the optimum of `sum`."""


def verdicts() -> str:
    """The verdict on every step that the table knows."""
    columns = step_table.AGGREGATIONS
    heads = [f"{where}: {name}" for where in ("k1 reward", "k2 loss") for name in columns]
    lines = [f"| advantage | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for (name, in_reward), (_, in_loss) in zip(step_table.rows("reward"), step_table.rows("loss"), strict=True):
        entries = [step_table.SHORT[step_table.judge(step).verdict] for step in (*in_reward, *in_loss)]
        advantage, _, setting = name.partition(", ")
        shown = f"`{advantage}`" + (f", `{setting.replace(' ', ': ')}`" if setting else "")
        lines.append(f"| {shown} | {' | '.join(entries)} |")
    return "\n".join(lines)


def distances() -> str:
    """Total variation between the policy that training without noise ends with and π*."""
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = [
        "| advantage | k1 reward: sum | k1 reward: sequence | k2 loss: sum | k2 loss: sequence |",
        "|---|---|---|---|---|",
    ]
    by_row = {
        (row["placement"], row["advantage"], row["scale_rewards"], row["aggregation"]): row for row in record["rows"]
    }
    for name, scale in dict.fromkeys((row["advantage"], row["scale_rewards"]) for row in record["rows"]):
        shown = f"`{name}`" + (f", `scale_rewards: {scale}`" if name == "grpo" else "")
        found = [by_row[place, name, scale, how] for place in ("reward", "loss") for how in AGGREGATIONS]
        lines.append(f"| {shown} | {' | '.join(map(_distance, found))} |")
    return "\n".join([*lines, "", f"The reference is {record['reference']:.2f} from π*."])


def _distance(row: dict) -> str:
    """With few completions, and in brackets with a large batch where that was measured."""
    return f"{row['few']:.3f}" + (f" ({row['large']:.3f})" if "large" in row else "")
