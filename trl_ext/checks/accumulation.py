"""Rules about gradient accumulation: its number of micro-batches stands in one place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings

INSIDE = "gradient_accumulation_kwargs"
KNOWN = ("sync_each_batch", "adjust_scheduler", "sync_with_dataloader")
"""Arguments of accelerate's `GradientAccumulationPlugin`, besides the number of steps."""


@problem("accelerator_config", "gradient_accumulation_steps")
def accumulated_by_accelerate(s: Settings) -> Iterator[str]:
    """transformers writes `num_steps` over `gradient_accumulation_steps` after everything else has read that."""
    given = _content(s["accelerator_config"]).get(INSIDE)
    if given is None:
        return
    where = f"{s.where('accelerator_config')} sets `{INSIDE}`"
    if not isinstance(given, dict):
        yield f"{where} to {given!r}, which is not a mapping. Remove it."
    elif "num_steps" in given:
        yield (
            f"{where} with num_steps {given['num_steps']}. It would change the examples of a step behind "
            f"`gradient_accumulation_steps`, by which a run is planned and counted. Remove it, and write "
            f"`gradient_accumulation_steps: {given['num_steps']}`."
        )
    elif unknown := [key for key in given if key not in KNOWN]:
        yield f"{where} with {', '.join(map(str, unknown))}, which accelerate does not know. It knows {', '.join(KNOWN)}."


def _content(given: Any) -> dict[str, Any]:
    """The settings in a mapping, in a JSON file or in accelerate's own object; a file that cannot be read has none."""
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    if isinstance(given, dict):
        return given
    return {} if given is None else {INSIDE: getattr(given, INSIDE, None)}
