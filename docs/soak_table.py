"""The table of killed and resumed runs."""

from typing import Any

from benchmarks import soak
from benchmarks.killed import FINISHING, LOADING, OTHER, SAVING

PHASES = {
    LOADING: "loading",
    "sampling": "sampling",
    "scoring": "log-probabilities",
    "rewards": "rewards",
    "update": "update",
    SAVING: "saving",
    OTHER: "between",
    FINISHING: "end",
}


def table(saved: dict[str, dict[str, Any]]) -> str:
    """Kills of every kind of run by phase, and how many finished runs had the adapter of the uninterrupted one."""
    lines = [
        f"| run | {' | '.join(PHASES.values())} | kills | finished runs with the same adapter |",
        "|---|" + "---|" * (len(PHASES) + 2),
    ]
    for kind in filter(saved.__contains__, soak.KINDS):
        result = saved[kind]
        cells = " | ".join(str(result["phases"].get(phase, 0)) for phase in PHASES)
        same = f"{result['identical_adapters']} of {result['ended_runs']}"
        lines.append(f"| {_name(kind)} | {cells} | {result['kills']} | {same} |")
    machines = sorted({result["machine"] for result in saved.values()})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."])


def _name(kind: str) -> str:
    settings = soak.KINDS[kind] or {"loss": kind}
    return ", ".join(f"`{key}: {value}`" for key, value in settings.items())
