"""Rule about `ddp_backend`, which only a run in several processes reads."""

import os
from collections.abc import Iterator

from trl_ext.checks.rule import note
from trl_ext.checks.settings import Settings


@note("ddp_backend", recipe_only=True)
def backend(s: Settings) -> Iterator[str]:
    """`trl_ext.build.config` leaves it out, because torch would look for the process group of a launcher."""
    if s["ddp_backend"] and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield f"{s.where('ddp_backend')} has no effect with one process. `accelerate launch` starts several."
