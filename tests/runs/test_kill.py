"""A run of the command line, killed three times and resumed, leaves the adapter it would have left anyway."""

import pytest

from benchmarks import soak
from trl_ext.checkpoints import manifest

pytestmark = pytest.mark.slow


def test_three_kills_change_nothing(tmp_path):
    whole, facts = soak.uninterrupted(tmp_path)
    assert soak.eight_bit_states(whole.folder / f"checkpoint-{soak.STEPS}")
    moments = facts["moments"]
    optimizer = next(i for i, name in enumerate(moments) if "save optimizer.pt" in name)
    renaming = next(i for i, name in enumerate(moments) if "rename" in name)
    run = soak.Run(tmp_path, "killed")
    run.begin_from(whole, soak.EVERY)
    for where in (f"moment:{optimizer}", "update:1:0.01", f"moment:{renaming}"):
        record = soak.kill(run, where)
        assert record["was_killed"] and record["is_newest_whole"], record
    code, _, printed = run.start(save_total_limit=2)
    assert code == 0, printed[-3000:]
    assert run.adapter() == whole.adapter()
    kept = sorted(path.name for path in run.folder.iterdir() if path.is_dir())
    assert kept == ["checkpoint-6", "checkpoint-8"]  # and nothing aside
    assert all(manifest.damage(run.folder / name) is None for name in kept)
