"""Use lm-evaluation-harness without its messages and progress bars."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator

from trl_ext.support.errors import UserError


def require() -> None:
    """Raise UserError if the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("`--tasks` needs a package that is not installed. Run `pip install lm-eval`.")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Inside, the harness logs only errors, and building requests shows no bar.

    It warns of every model that it has not loaded itself, and of every setting that a task leaves at its default.
    """
    from lm_eval.api import task

    logger, bar = logging.getLogger("lm_eval"), task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    task.tqdm = functools.partial(bar, disable=True)  # `build_all_requests` has no switch
    try:
        yield
    finally:
        task.tqdm = bar
        logger.setLevel(level)
