"""Let `gradient_checkpointing` of a trainer's configuration be `auto`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from trl_ext.trainers.common.flags import SwitchOrAuto, switch, switched
from trl_ext.trainers.common.temporarily import temporarily


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


def settle(args: Any, is_on: bool) -> None:
    """Replace `auto`, if `args` has it: in all layers or in none."""
    if args.gradient_checkpointing == "auto":
        args.activation_checkpointing = args.gradient_checkpointing = is_on  # newer and older name


def settle_before(args: Any) -> str | None:
    """Checkpoint all layers where a trainer that runs transformers' own loop cannot choose them.

    Returns:
        The reason, as a clause; `None` if the layers can be chosen, or if the user chose them.
    """
    if args is None or args.gradient_checkpointing != "auto":
        return None
    reasons = {
        "several processes train, and a step that runs out of memory on one of them cannot be repeated": args.world_size
        > 1,
        "`activation_offloading` moves what layers keep to the CPU": args.activation_offloading,
        "`torch_compile` would compile the model again for every other number of layers": args.torch_compile,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        settle(args, True)
    return reason


def told_to_trl(args: Any) -> AbstractContextManager:
    """Context in which a constructor of TRL's sees no `auto`, which is resolved before the first micro-batch."""
    is_auto = args is not None and args.gradient_checkpointing == "auto"
    return temporarily(args, gradient_checkpointing=False) if is_auto else nullcontext()
