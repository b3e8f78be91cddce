"""Tables of what was measured on the demo."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def frontier() -> str:
    """Every measured policy of the reward–KL frontier, with the best possible reward at its KL."""
    record = json.loads((RESULTS / "frontier.json").read_text(encoding="utf-8"))
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


def demo() -> str:
    """The demo's result for four losses, each the mean of two seeds."""
    record = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
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
