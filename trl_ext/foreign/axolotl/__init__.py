"""Give the settings of axolotl, one file per part: what each key of its schema means in a recipe.

A file of axolotl says what is trained by `rl` and `reward_model`. Without both it trains on demonstrations.
"""

from typing import Any

from trl_ext.foreign.axolotl import (
    adapter,
    data,
    elsewhere,
    evaluation,
    model,
    objective,
    precision,
    steps,
    trackers,
)
from trl_ext.foreign.axolotl.kind import is_axolotl
from trl_ext.foreign.dialect import Dialect, Values

_PARTS = (objective, model, adapter, data, steps, evaluation, precision, trackers)


def _defaults(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in _PARTS:
        found |= part.defaults(values) if hasattr(part, "defaults") else {}
    return found


AXOLOTL = Dialect(
    "axolotl",
    {key: meaning for part in (*_PARTS, elsewhere) for key, meaning in part.MEANS.items()},
    is_axolotl,
    _defaults,
)
