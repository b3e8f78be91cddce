"""Find the complete checkpoints of a run directory, and report what is wrong with the others."""

from pathlib import Path

from trl_ext.checkpoints.manifest import damage
from trl_ext.support.errors import UserError


def newest_first(directory: Path) -> list[Path]:
    """Directories called checkpoint-<step>, complete or not."""
    found = [path for path in directory.glob("checkpoint-*") if path.is_dir() and _step(path) is not None]
    return sorted(found, key=_step, reverse=True)


def latest(directory: Path) -> Path | None:
    """The complete checkpoint with the highest step."""
    return next((path for path in newest_first(directory) if damage(path) is None), None)


def passed_over(checkpoint: Path) -> list[str]:
    """Newer checkpoints beside this one that are damaged, each with the damage, for a message."""
    newer = [path for path in newest_first(checkpoint.parent) if (_step(path) or 0) > (_step(checkpoint) or 0)]
    return [f"{path.name} ({what})" for path in newer if (what := damage(path)) is not None]


def require_latest(directory: Path) -> Path:
    """As `latest`.

    Raises:
        UserError: There is none.
    """
    if (found := latest(directory)) is not None:
        return found
    broken = [f"{path.name}: {damage(path)}" for path in newest_first(directory)]
    what = f"no complete checkpoint ({'; '.join(broken)})" if broken else "no checkpoint"
    raise UserError(f"Cannot resume: {directory} holds {what}. Start without `resume_from_checkpoint`.")


def require_whole(checkpoint: Path) -> None:
    """Raises:
    UserError: A file is missing or damaged; names it, and another checkpoint to resume if there is one.
    """
    if (what := damage(checkpoint)) is None:
        return
    others = [
        path for path in newest_first(checkpoint.parent) if path.name != checkpoint.name and damage(path) is None
    ]
    remedy = f"Resume {others[0]} instead" if others else "There is no other checkpoint beside it, so start a new run"
    raise UserError(f"{checkpoint} cannot be resumed because it is incomplete: {what}. {remedy}.")


def _step(path: Path) -> int | None:
    step = path.name.rpartition("-")[2]
    return int(step) if step.isdecimal() else None
