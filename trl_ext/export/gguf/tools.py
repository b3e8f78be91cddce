"""Find llama.cpp: its converters, its quantiser, and its library for Python."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trl_ext.support.errors import UserError

FOLDER = "LLAMA_CPP"
"""Environment variable with the folder of llama.cpp."""

CONVERTER, LORA_CONVERTER, QUANTISER = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "llama-quantize"

INSIDE = (".", "vendor/llama.cpp", "bin", "build/bin")
"""Where the programs are in a clone, in an unpacked source distribution of llama-cpp-python, and in a built copy."""

GET = "git clone --depth 1 https://github.com/ggml-org/llama.cpp"

LIBRARIES = {"llama_cpp": "llama-cpp-python", "sentencepiece": "sentencepiece"}
"""Packages that quantise, measure and convert, by the names that Python imports. The extra `gguf` installs them."""


class Tools(NamedTuple):
    """Programs of llama.cpp.

    Attributes:
        converter: `convert_hf_to_gguf.py`.
        lora_converter: `convert_lora_to_gguf.py`; `None` if not needed.
        quantiser: `llama-quantize`; `None` if there is none, and llama-cpp-python quantises.
    """

    converter: Path
    lora_converter: Path | None
    quantiser: Path | None


def find(folder: str | None, *, needs_lora: bool = False) -> Tools:
    """Find the programs in a folder, else in the folder that `LLAMA_CPP` names, else on PATH.

    Args:
        folder: A clone of llama.cpp, or an unpacked source distribution of llama-cpp-python.
        needs_lora: Whether an adapter will be converted alone.

    Raises:
        UserError: With a sentence about each program and package that is missing.
    """
    named = folder or os.environ.get(FOLDER)
    origin = "`--llama_cpp`" if folder else FOLDER
    if named and not Path(named).expanduser().is_dir():
        if Path(named).expanduser().exists():
            raise UserError(f"{origin} is {named}, which is a file. Name the folder of llama.cpp.")
        raise UserError(
            f"{origin} is {named}, and there is no such folder. Get llama.cpp with `{GET}`, and name its folder."
        )
    home = Path(named).expanduser() if named else None
    names = [CONVERTER, *([LORA_CONVERTER] if needs_lora else [])]
    found = {name: _program(name, home) for name in (*names, QUANTISER)}
    if problems := [*(_missing(name, home, origin) for name in names if found[name] is None), *_missing_packages()]:
        raise UserError(problems, about="the programs that write GGUF")
    return Tools(found[CONVERTER], found.get(LORA_CONVERTER), found[QUANTISER])


def _program(name: str, home: Path | None) -> Path | None:
    if home is not None:
        inside = next((home / place / name for place in INSIDE if (home / place / name).is_file()), None)
        if inside is not None:
            return inside.resolve()
    on_path = shutil.which(name) or next(iter(_beside_path(name)), None)
    return Path(on_path).resolve() if on_path else None


def _beside_path(name: str) -> Iterator[str]:
    """Scripts on PATH that are not marked as executable: Python runs them all the same."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and Path(folder, name).is_file():
            yield str(Path(folder, name))


def _missing(name: str, home: Path | None, origin: str) -> str:
    where = (
        f"in {home} ({origin}) nor on PATH"
        if home
        else f"on PATH, and neither `--llama_cpp` nor {FOLDER} names its folder"
    )
    return f"llama.cpp's {name} is {'neither' if home else 'not'} {where}. Get it with `{GET}`, and add `--llama_cpp llama.cpp`."


def _missing_packages() -> Iterator[str]:
    for module, package in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            yield f"{package} is not installed. Install it with `pip install {package}`."
