"""Quantise a GGUF file with llama.cpp, and name the types it knows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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

TYPES = (*UNQUANTISED, *QUANTISED)


def read(text: str) -> list[str]:
    """Types separated by commas, in any case, each once.

    Raises:
        ValueError: One is unknown; the message is the end of a sentence.
    """
    given = [word.strip() for word in text.split(",") if word.strip()]
    if not given:
        raise ValueError("has no type: give for instance Q4_K_M,Q8_0.")
    for word in given:
        if word.upper() not in TYPES:
            raise ValueError(f"names {word!r}: {messages.one_of(word.upper(), TYPES)}")
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
    """
    if tools.quantiser is not None:
        done = subprocess.run([tools.quantiser, source, output, kind], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(f"{tools.quantiser} could not write {kind}: {why}")
        return
    import llama_cpp
    import torch

    from trl_ext.export.gguf import library

    library.silence()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = torch.get_num_threads()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), params):
        raise UserError(f"llama-cpp-python could not write {kind}: {library.last_error() or 'no reason given'}")
