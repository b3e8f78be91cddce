"""Rules about the run directory and its checkpoints."""

import os
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.support.paths import absent, unwritable


@problem("resume_from_checkpoint", recipe_only=True)
def resume(s: Settings) -> Iterator[str]:
    given = s["resume_from_checkpoint"]
    if not isinstance(given, str):
        return
    path = Path(given).expanduser()
    found = sorted(path.glob("checkpoint-*"), key=os.path.getmtime) if path.is_dir() else []
    if not path.is_dir():
        yield f"{s.where('resume_from_checkpoint')} is {given}, and {absent(path, 'folder')}"
    elif not (path / "trainer_state.json").exists():
        hint = f"did you mean {found[-1]}?" if found else "name a folder called checkpoint-…, or give true."
        yield f"{s.where('resume_from_checkpoint')} is {given}, which holds no trainer_state.json: {hint}"


@problem("output_dir", recipe_only=True)
def output(s: Settings) -> Iterator[str]:
    given = s["output_dir"]
    if isinstance(given, str) and (end := unwritable(Path(given))) is not None:
        yield f"{s.where('output_dir')} is {given}, and {end}"
