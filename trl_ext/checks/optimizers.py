"""Optimizers that cannot take a step here."""

import re

IN_BACKWARD = re.compile("lomo|layerwise")


def why_refused(where: str, name: str) -> str | None:
    """A sentence about an optimizer that updates weights inside the backward pass, as a step of several forbids.

    Args:
        where: The setting, as the sentence names it.
        name: Its value, among transformers' optimizers.
    """
    if not IN_BACKWARD.search(name):
        return None
    return (
        f"{where} is {name}, which updates weights inside the backward pass, and a step here has several: choose another, "
        "adamw_torch or paged_adamw_8bit for instance."
    )
