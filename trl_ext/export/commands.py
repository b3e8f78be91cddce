"""List commands that serve, convert or upload a merged model."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trl_ext.export import mergeable
from trl_ext.export.source import Source

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `--max-lora-rank`."""


def after(source: Source, output: Path) -> dict[str, str]:
    """Commands by purpose; those that serve text are left out for a reward model.

    Args:
        source: The merged adapter and its base.
        output: The merged model.
    """
    folder, name = shlex.quote(str(output)), shlex.quote(output.resolve().name)
    upload = {"on the Hub": f"hf upload YOU/{name} {folder} ."}
    if source.is_classifier:
        return upload
    commands = {"vLLM": f"vllm serve {folder}"}
    if mergeable.serves_in_vllm(source.folder, source.adapter) and source.rank <= VLLM_RANKS[-1]:
        rank = next(rank for rank in VLLM_RANKS if rank >= source.rank)
        commands["vLLM, as adapter"] = (
            f"vllm serve {shlex.quote(source.base)} --enable-lora --max-lora-rank {rank} "
            f"--lora-modules {name}={shlex.quote(str(source.folder))}"
        )
    commands["llama.cpp, Ollama"] = f"trl-ext export {shlex.quote(str(source.folder))} --gguf Q4_K_M,Q8_0"
    return commands | upload


def of_gguf(
    output: Path,
    name: str,
    modelfile: str | None,
    files: Iterable[str] | None,
    lora: str | None,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Commands by purpose that use exported GGUF files.

    Args:
        output: Their folder.
        name: Of the model.
        modelfile: Name of the Modelfile, if there is one.
        files: Names of the models, the first of which is served.
        lora: Name of the adapter's file, if there is one.
        variables: Of the chat template, as the run set them. llama-server passes values of its own (`enable_thinking: true`), which
            would replace the defaults in the template.
    """
    server = "llama-server --jinja"
    if variables:
        server += f" --chat-template-kwargs {shlex.quote(json.dumps(dict(variables)))}"
    commands, model = {}, re.sub(r"[^a-z0-9._-]", "-", name.lower())
    if modelfile:
        commands["Ollama"] = f"ollama create {model} -f {shlex.quote(str(output / modelfile))}"
        commands["then"] = f"ollama run {model}"
    for file in [*(files or ())][:1]:
        commands["llama.cpp"] = f"{server} -m {shlex.quote(str(output / file))}"
    if lora:
        commands["llama.cpp, adapter"] = f"{server} -m BASE.gguf --lora {shlex.quote(str(output / lora))}"
    return commands
