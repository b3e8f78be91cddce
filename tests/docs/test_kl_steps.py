"""The measured distances from the optimum agree with the verdicts of the table."""

import json

from docs.kl_steps import RESULT
from trl_ext.rl import step_table
from trl_ext.rl.step_table import Step

CELLS = {cell[1]: cell for cell in step_table.KLS}


def test_training_ends_at_the_optimum_where_the_table_says_so_and_only_there():
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    seen = set()
    for row in record["rows"]:
        step = Step(*CELLS[row["placement"]], row["advantage"], row["aggregation"], scale_rewards=row["scale_rewards"])
        verdict = step_table.judge(step).verdict
        is_kept = verdict in (step_table.EXACT, step_table.FACTOR, step_table.SAME_OPTIMUM) or step.vanishes_at_optimum
        assert (row["few"] < 0.03) == is_kept, row
        if "large" in row:
            assert (row["large"] < 0.03) == (is_kept or verdict == step_table.LARGE_BATCH), row
        seen.add(row["advantage"])
    assert seen == set(step_table.ADVANTAGES)
