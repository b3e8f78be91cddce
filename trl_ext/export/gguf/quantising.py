"""Quantise a GGUF file with llama.cpp, and name the types it knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trl_ext.checkpoints import staging
from trl_ext.export.gguf.tools import Tools
from trl_ext.support import messages
from trl_ext.support.errors import UserError

UNQUANTISED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Types that the converter writes itself, with the dtype of each."""

QUANTISED = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "Q3_K_L",
    "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "Q2_K",
)  # fmt: skip
"""Types that need no importance matrix."""

LARGEST = QUANTISED[0]
"""The quantised type with the most bits per weight."""

NEED_A_MATRIX = ("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S")
"""Types that llama.cpp writes only with a matrix of which weights matter, measured on a text."""

TYPES = (*UNQUANTISED, *QUANTISED)

LIBRARY = Path(__file__).with_name("quantiser.py")


def read(text: str) -> list[str]:
    """Types separated by commas, in any case, each once.

    Raises:
        ValueError: One is unknown; the message is the end of a sentence.
    """
    given = [word.strip() for word in text.split(",") if word.strip()]
    if not given:
        raise ValueError("has no type: give for instance Q4_K_M,Q8_0.")
    for word in given:
        if word.upper() in NEED_A_MATRIX:
            raise ValueError(
                f"names {word!r}, which needs an importance matrix. The smallest type without one is {QUANTISED[-1]}."
            )
        if word.upper() not in TYPES:
            begun = [kind for kind in TYPES if kind.startswith(word.upper())]
            hint = f"did you mean {messages.joined(begun, 'or')}?" if begun else messages.one_of(word.upper(), TYPES)
            raise ValueError(f"names {word!r}: {hint}")
    return list(dict.fromkeys(word.upper() for word in given))


def quantise(tools: Tools, source: Path, output: Path, kind: str) -> None:
    """Write `output`, a quantised copy of `source`.

    Args:
        tools: `llama-quantize`, if there is one; else llama-cpp-python quantises.
        source: An unquantised GGUF file.
        output: Does not exist yet.
        kind: One of `QUANTISED`.

    Raises:
        UserError: llama.cpp reports an error.
        OSError: The disk is full.
    """
    import torch

    program = [tools.quantiser] if tools.quantiser else [sys.executable, LIBRARY]
    command = [*program, source, output, kind, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        staging.require_growth(output)  # llama.cpp reports a full disk as an "iostream error"
        why = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"{tools.quantiser or 'llama-cpp-python'} could not write {kind}: {why}")
