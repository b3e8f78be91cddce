"""Write an adapter alone as a GGUF file, for programs that load it beside the GGUF file of its base."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from trl_ext.export import mergeable
from trl_ext.export.gguf import converting
from trl_ext.export.source import Source
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined


def write(source: Source, output: Path, name: str, converter: Path) -> Path:
    """Write `name-lora.gguf`.

    Raises:
        UserError: llama.cpp cannot compute the adapter as PEFT does, or the converter fails.
    """
    if not mergeable.serves_in_vllm(source.folder, source.adapter):
        settings = [f"`{key}`" for key in mergeable.UNKNOWN_TO_VLLM if source.adapter.get(key)]
        which = f" with {joined(settings)}" if settings else ""
        raise UserError(
            f"The adapter in {source.folder}{which} cannot be exported alone: llama.cpp computes plain LoRA on linear layers, with one rank "
            "and one scale. Leave out `--gguf_lora`, and export the merged model with `--gguf`."
        )
    if (outside := mergeable.beside_text(source.folder)) is not None:
        raise UserError(
            f"The adapter in {source.folder} cannot be exported alone: it is also on the model's part for images ({outside}), which "
            "llama.cpp's file of an adapter leaves out. Leave out `--gguf_lora`, and export the merged model with `--gguf`."
        )
    file = output / f"{name}-lora.gguf"
    converting.convert_adapter(converter, source.folder, _folder_of_config(source), file)
    return file


def _folder_of_config(source: Source) -> Path:
    if Path(source.base).is_dir():
        return Path(source.base)
    return Path(hf_hub_download(source.base, "config.json", revision=source.revision)).parent
