"""Describe the recipes that come with trl-ext: model, what is trained, hardware and measurements, from their files alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from trl_ext.demo import EMBEDDED
from trl_ext.recipe import names, reader
from trl_ext.recipe.choice.loss import loss_title
from trl_ext.support.paths import is_path

NOT_MEASURED = "not measured yet"


class Shipped(NamedTuple):
    """One recipe that comes with trl-ext.

    Attributes:
        name: The word that names it on the command line.
        model: `model_name_or_path`.
        trains: The loss, or the `trainer` if it has none.
        data: `dataset_name`, or "a mixture".
        hardware: The hardware it is meant for.
        measured: Measured peak memory and time, or `NOT_MEASURED`.
        path: Its file.
    """

    name: str
    model: str
    trains: str
    data: str
    hardware: str
    measured: str
    path: Path

    @property
    def model_name(self) -> str:
        """The model in a table: its name on the Hub, or the name of its folder."""
        return Path(self.model).name if is_path(self.model) else self.model

    @property
    def is_on_hub(self) -> bool:
        """Whether the model is named as on the Hub: it is neither the embedded one nor a folder of this computer."""
        return self.model != EMBEDDED and not is_path(self.model)

    @property
    def is_measured(self) -> bool:
        """Whether peak and time were measured."""
        return self.measured != NOT_MEASURED


def every() -> list[Shipped]:
    """All recipes that come with trl-ext, those that need no GPU first."""
    found = [describe(path) for path in names.shipped().values()]
    return sorted(found, key=lambda recipe: (not recipe.hardware.startswith("any"), recipe.name))


def describe(path: Path) -> Shipped:
    """Describe one of their files. It is not checked: tests do that."""
    values, text = reader.read(path).values, path.read_text(encoding="utf-8")
    loss, trainer = values.get("loss"), values.get("trainer")
    title = loss_title(loss) if loss is not None else trainer or "dpo"
    return Shipped(
        name=path.stem,
        model=values["model_name_or_path"],
        trains=f"{title}, sampled pairs" if loss is not None and trainer else title,
        data=values.get("dataset_name") or "a mixture",
        hardware=_header(text, "Hardware"),
        measured=_header(text, "Measured peak and time"),
        path=path,
    )


def _header(text: str, name: str) -> str:
    """The text after `# name:` in a recipe's header, without remarks in brackets and further lines."""
    found = re.search(rf"^# {name}: (.+)$", text, re.MULTILINE)
    return found[1].split(" (")[0].rstrip(".") if found else ""
