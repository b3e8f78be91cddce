"""Let a trainer's configuration say how an optimizer step is cut into rows."""

from dataclasses import dataclass, field

from trl_ext.trainers.common.flags import CountOrAuto, numbered


@dataclass
class RowOptions:
    """Packed rows, and their length."""

    packing: bool = field(
        default=True,
        metadata={
            "help": "Pack rows: completions of a prompt share it, and there is no padding. Before the first step, packed and "
            "padded rows are compared on the model; if they differ, rows are padded."
        },
    )
    row_tokens: CountOrAuto = field(
        default="auto",
        metadata={
            "help": "Maximum tokens of one forward pass, padding included. It limits memory and does not change the "
            "result. `auto`: the fastest row length that fits in memory, up to 4096."
        },
    )

    def _read_row_tokens(self) -> None:
        """Turn the text of a flag into a number."""
        self.row_tokens = numbered(self.row_tokens)
