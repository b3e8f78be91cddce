"""Write the measured differences of GGUF files into the model card of their run."""

from __future__ import annotations

from pathlib import Path

from trl_ext.export import verdict
from trl_ext.export.card import about, table
from trl_ext.export.fidelity import Fidelity
from trl_ext.report import card_blocks


def put(directory: Path, fidelity: Fidelity, dtype: str) -> None:
    """Replace the block of exported files in a run's card. A folder without a card gets none.

    Args:
        directory: Of the run.
        fidelity: With files.
        dtype: Of the merged weights.
    """
    parts = ["## GGUF", table(verdict.HEADINGS, verdict.rows(fidelity, dtype))]
    parts += [verdict.of_file(file, fidelity) for file in fidelity.files]
    parts += filter(None, [verdict.far_files(fidelity)])
    card_blocks.put(directory / "README.md", card_blocks.GGUF, "\n\n".join([*parts, about(fidelity)]))
