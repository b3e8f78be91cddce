"""Let `gradient_checkpointing` of a trainer's configuration be `auto`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from trl_ext.trainers.common.flags import SwitchOrAuto, switch, switched


@dataclass
class RecomputeOptions:
    """Gradient checkpointing as much as memory requires."""

    gradient_checkpointing: SwitchOrAuto = field(
        default="auto",
        metadata={
            **switch("gradient_checkpointing"),
            "help": "Recompute activations in the backward pass instead of keeping them. `auto`: in as few layers as the "
            "free memory requires, measured on the model before the first step.",
        },
    )

    def _read_switches(self) -> None:
        """Turn the texts of flags into values."""
        for name in self._names_of_checkpointing():
            setattr(self, name, switched(getattr(self, name)))

    @contextmanager
    def _auto_withheld(self) -> Iterator[None]:
        """Context in which `auto` is false, for transformers, which does not know it."""
        names = self._names_of_checkpointing()
        given = next((value for name in names if (value := getattr(self, name)) is not None), None)
        if given == "auto":
            vars(self).update(dict.fromkeys(names, False))
        yield
        if given == "auto":
            vars(self).update(dict.fromkeys(names) | {"gradient_checkpointing": "auto"})

    def _names_of_checkpointing(self) -> list[str]:
        # The first is the newer name, which transformers has since 5.23.
        return [name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(self, name)]
