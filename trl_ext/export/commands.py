"""List commands that serve, convert or upload a merged model."""

import shlex
from pathlib import Path

from trl_ext.export import mergeable
from trl_ext.export.source import Source

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `--max-lora-rank`."""

GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
"""llama.cpp's names of dtypes."""


def after(source: Source, output: Path, dtype: str) -> dict[str, str]:
    """Commands by purpose; those that serve text are left out for a reward model.

    Args:
        source: The merged adapter and its base.
        output: The merged model.
        dtype: Of its weights: `bfloat16`, say.
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
    gguf = f"{name}.gguf"
    commands["llama.cpp"] = (
        f"python llama.cpp/convert_hf_to_gguf.py {folder} --outfile {gguf} --outtype {GGUF_TYPES[dtype]}"
    )
    commands["Ollama"] = f"echo 'FROM ./{gguf}' > Modelfile && ollama create {name} -f Modelfile && ollama run {name}"
    return commands | upload
