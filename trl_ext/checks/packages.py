"""Rules about packages that settings need, looked for without importing any."""

import importlib.util
from collections.abc import Iterator

from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@problem("use_liger_kernel", recipe_only=True)
def liger(s: Settings) -> Iterator[str]:
    if s["use_liger_kernel"] and not is_installed("liger_kernel"):
        yield (
            f"{s.where('use_liger_kernel')} is true and needs a package that is not installed. Run `pip install liger-kernel`, or "
            "remove the setting."
        )
