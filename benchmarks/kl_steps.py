"""Measure how far from the optimum training without noise ends, by advantage, placement of the KL and loss aggregation.

    python -m benchmarks.kl_steps

On the small language of `trl_ext.kl_audit.steps`, where every expectation is a sum. Writes
benchmarks/results/kl_steps.json, which docs/rl.md shows. About a minute on one CPU core.
"""

import json
from pathlib import Path

import torch

from trl_ext.kl_audit.steps import ascend, example, expected_gradient, large_batch_gradient
from trl_ext.rl import step_table
from trl_ext.rl.step_table import Step

RESULT = Path(__file__).parent / "results" / "kl_steps.json"
N_STEPS = 150
LEARNING_RATE = 0.15
FEW = 2
"""Completions of a step, all of one prompt."""
MANY = 2000
"""Completions of a large batch, in proportion to their probabilities, for advantages that compare no groups."""


def distance(step: Step, *, is_large: bool) -> float:
    """Total variation between the policy that training ends with and π*."""
    task, _ = example()

    def direction(logits: torch.Tensor) -> torch.Tensor:
        if is_large:
            return large_batch_gradient(task, logits, step, size=1, units=MANY)
        return expected_gradient(task, logits, step, FEW)

    return ascend(task, direction, N_STEPS, LEARNING_RATE)[1]


def main() -> None:
    torch.set_num_threads(1)
    task, _ = example()
    rows = []
    for cell in step_table.KLS:
        for name, scale in step_table.VARIANTS:
            if name == "grpo" and scale != "group":
                continue  # `none` is dr_grpo, and with one prompt per step `batch` is `group`
            for aggregation in ("sum", "sequence"):
                step = Step(*cell, name, aggregation, scale_rewards=scale)
                row = {"placement": cell[1], "advantage": name, "scale_rewards": scale, "aggregation": aggregation}
                row["few"] = distance(step, is_large=False)
                if name in step_table.TO_GO:
                    row["large"] = distance(step, is_large=True)
                rows.append(row)
                print(row, flush=True)
    RESULT.write_text(json.dumps({"reference": task.distance(task.ref_logits), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
