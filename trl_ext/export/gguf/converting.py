"""Convert a merged model, its vocabulary alone, or an adapter to GGUF with llama.cpp's own converters."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl_ext.checkpoints import staging
from trl_ext.export.gguf import entry
from trl_ext.support.errors import UserError

TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"

ERROR = re.compile(r"(ERROR|error):|[\w.]*(Error|Exception): ")
"""Beginning of a line with an error. Progress bars may come after it."""

GENERATION_TAG = re.compile(r"(\{%[-+]?)\s*(end)?generation\s*([-+]?%\})")
"""Marks for the trainer which tokens are the assistant's. transformers knows the tag, and other programs may not."""


def convert(converter: Path, model: Path, output: Path, kind: str, *, adds_begin: bool | None = None) -> None:
    """Write the GGUF file of a model.

    Args:
        converter: `convert_hf_to_gguf.py`.
        model: A folder with configuration, tokenizer and weights, as transformers saves them.
        output: Does not exist yet.
        kind: `BF16`, `F16` or `F32`.
        adds_begin: Whether llama.cpp adds the begin token to a prompt; `None` leaves it to the converter.

    Raises:
        UserError: The converter fails.
        OSError: The disk is full.
    """
    with _as_served(model, adds_begin) as folder:
        arguments = ("--outtype", kind.lower(), "--model-name", output.stem)
        _run(converter, folder, output, *arguments, adds_begin=adds_begin)


def convert_vocabulary(converter: Path, model: Path, output: Path, *, adds_begin: bool | None = None) -> None:
    """Write a GGUF file without weights. See `convert`; the folder needs no weights either."""
    with _as_served(model, adds_begin) as folder:
        _run(converter, folder, output, "--vocab-only", adds_begin=adds_begin)


def convert_adapter(converter: Path, adapter: Path, base: Path, output: Path) -> None:
    """Write the GGUF file of an adapter alone, in float32.

    The scale in llama.cpp is lora_alpha / r. For rsLoRA, whose scale is lora_alpha / √r, the file has lora_alpha · √r.

    Args:
        converter: `convert_lora_to_gguf.py`.
        adapter: A folder as PEFT saves it.
        base: Folder with the base's configuration.
        output: Does not exist yet.

    Raises:
        UserError: The converter fails.
        OSError: The disk is full.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _link(adapter, folder, "adapter_model.*")
        content = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        if content.get("use_rslora"):
            content |= {"lora_alpha": content["lora_alpha"] * math.sqrt(content["r"]), "use_rslora": False}
        (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
        _run(converter, folder, output, "--base", base, "--outtype", "f32")


def without_generation_tags(template: str) -> str:
    """The template without `{% generation %}`, with the same output: the tag becomes an `if` that always holds."""
    return GENERATION_TAG.sub(lambda tag: f"{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}", template)


@contextmanager
def _as_served(model: Path, adds_begin: bool | None) -> Iterator[Path]:
    """A folder with links to the model's files, and with tokenizer settings for programs that serve it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _link(model, folder, "*")
        _rewrite(folder / TEMPLATE, without_generation_tags)
        if adds_begin is not None:
            _rewrite(folder / SETTINGS, lambda text: json.dumps(json.loads(text) | {"add_bos_token": adds_begin}))
        yield folder


def _rewrite(file: Path, change: Any) -> None:
    """Put a changed copy in place of a link."""
    if file.exists():
        text = file.read_text(encoding="utf-8")
        file.unlink()
        file.write_text(change(text), encoding="utf-8")


def _link(source: Path, folder: Path, pattern: str) -> None:
    for file in source.resolve().glob(pattern):
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())


def _run(converter: Path, folder: Path, output: Path, *arguments: Any, adds_begin: bool | None = None) -> None:
    words = (entry.__file__, converter, folder, "--outfile", output, *arguments)
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if adds_begin is False:
        environment[entry.NO_BEGIN] = "1"
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        staging.require_growth(output)  # numpy reports a full disk as a number of bytes
        raise UserError(f"llama.cpp's {converter.name} failed: {_reason(done.stderr)}")


def _reason(output: str) -> str:
    """What the converter said last, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if lines and "BPE pre-tokenizer was not recognized" in lines[-1]:
        return "It does not know how the model's tokenizer splits text. A newer llama.cpp may know it."
    errors = [line for line in lines if ERROR.match(line)]
    said = (errors or lines or ["it printed nothing"])[-1]
    return re.sub(r"^ERROR:[\w-]+:", "", said).rstrip(".") + "."
