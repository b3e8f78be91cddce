"""What `report_to` may name, read from the installed transformers without importing it."""

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trl_ext.recipe.settings import Settings
from trl_ext.support import messages

SOURCE = Path("integrations", "integration_utils.py")
TABLE = re.compile(r"^INTEGRATION_TO_CALLBACK = \{(.*?)^\}", re.MULTILINE | re.DOTALL)


def report_to(s: Settings) -> Iterator[str]:
    """A tracker's name is judged here, since transformers looks at it when the weights are loaded."""
    given = s["report_to"]
    if "report_to" not in s or given is None:
        return
    allowed = ("all", "none", *trackers())
    for name in given if isinstance(given, list) else [given]:
        if name not in allowed:
            yield f"{s.where('report_to')} names {messages.shown(name)}: {messages.one_of(str(name), allowed)}"


@lru_cache
def trackers() -> tuple[str, ...]:
    """Names of the trackers that transformers knows."""
    folder = importlib.util.find_spec("transformers").submodule_search_locations[0]
    table = TABLE.search(Path(folder, SOURCE).read_text(encoding="utf-8"))
    return tuple(re.findall(r'"(\w+)":', table[1]))
