"""Make the GGUF files of a merged model and the Modelfile beside them, and check the prompts they make."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig, GenerationConfig

from trl_ext.export.fidelity import Served
from trl_ext.export.gguf import converting, library, modelfile, predictions, quantising, template_check, turns
from trl_ext.export.gguf.tools import Tools
from trl_ext.export.merging import require_space
from trl_ext.export.source import Source
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined

MODELFILE = "Modelfile"

TEXT_ALONE = (
    "The files hold the language model without its part for images. Keep the merged model with `--merged DIR`, and write that part with "
    "llama.cpp: `convert_hf_to_gguf.py DIR --mmproj`."
)

BYTES = {"F32": 4, "BF16": 2, "F16": 2, quantising.LARGEST: 1.1}
"""Per weight. All other types are smaller than the last."""


class Format(NamedTuple):
    """How a model's prompts are written, found before the merge.

    Attributes:
        tokenizer: Of the run.
        turns: Text between messages for Ollama; `None` if there is no chat template, or none that Ollama can express.
        writes_modelfile: Whether Ollama can write the model's prompts.
        adds_begin: Whether llama.cpp adds the begin token to prompts.
        notes: Sentences about what Ollama does in another way.
        compared: Number of prompts and texts that were compared.
    """

    tokenizer: Any
    turns: turns.Turns | None
    writes_modelfile: bool
    adds_begin: bool
    notes: list[str]
    compared: int


def format_of(source: Source, processor: Any, tools: Tools, *, checks: bool) -> Format:
    """Convert the tokenizer alone, and compare the prompts it makes in llama.cpp with those in training.

    Args:
        source: Names the base, whose configuration the converter reads.
        processor: The tokenizer of the run, or a processor that holds it.
        tools: llama.cpp.
        checks: Whether to compare.

    Raises:
        UserError: llama.cpp does not know the architecture or the tokenizer, or makes other prompts of a conversation.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    found, notes = _learn(tokenizer)
    if getattr(processor, "image_processor", None) is not None:
        notes.append(TEXT_ALONE)
    writes_modelfile = found is not None or not tokenizer.chat_template
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name, "model"), Path(name, "vocabulary.gguf")
        config = AutoConfig.from_pretrained(
            source.base, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        converting.convert_vocabulary(tools.converter, folder, file, adds_begin=_forced(tokenizer))
        with _vocabulary(file) as vocabulary:
            compared = _check(vocabulary, tokenizer, found, "The GGUF file") if checks else 0
            return Format(tokenizer, found, writes_modelfile, vocabulary.adds_begin, notes, compared)


def make(
    merged: Path, output: Path, name: str, kinds: list[str], form: Format, tools: Tools, *, dtype: str, checks: bool
) -> list[Path]:
    """Write `name-TYPE.gguf` for each type, and the unquantised file that they are made of.

    Args:
        merged: The folder of the merged model.
        output: Folder of the files.
        name: Of the model.
        kinds: Types, of `quantising.TYPES`.
        form: Of the model.
        tools: llama.cpp.
        dtype: Of the merged weights.
        checks: Whether to compare prompts.

    Returns:
        The files: first the unquantised one in the dtype of the merged weights, then one per type in their order.

    Raises:
        UserError: llama.cpp does not convert the dtype, fails, or makes other prompts than in training; or the disk has too little space.
    """
    plain = next((kind for kind, each in quantising.UNQUANTISED.items() if each == dtype), None)
    if plain is None:
        allowed = joined(list(quantising.UNQUANTISED.values()), "and")
        raise UserError(
            f"The weights of the model are {dtype}, and llama.cpp converts {allowed}. Save the model in one of them."
        )
    weights = sum(file.stat().st_size for file in merged.glob("*.safetensors")) / BYTES[plain]
    sizes = {kind: weights * BYTES.get(kind, BYTES[quantising.LARGEST]) for kind in (plain, *kinds)}
    require_space(output, round(sum(sizes.values())), "The GGUF files take up to")
    whole = output / f"{name}-{plain}.gguf"
    converting.convert(tools.converter, merged, whole, plain, adds_begin=_forced(form.tokenizer))
    if checks:
        with _vocabulary(whole) as vocabulary:
            _check(vocabulary, form.tokenizer, form.turns, whole.name)
    files = [whole]
    for kind in kinds:
        file = output / f"{name}-{kind}.gguf"
        if kind in quantising.QUANTISED:
            quantising.quantise(tools, whole, file, kind)
        elif kind != plain:
            converting.convert(tools.converter, merged, file, kind, adds_begin=_forced(form.tokenizer))
        files.append(file)
    return list(dict.fromkeys(files))


def write_modelfile(output: Path, file: str, form: Format, config: GenerationConfig) -> None:
    """Write the Modelfile of one of the files."""
    ours = form.turns and template_check.modelfile_turns(form.turns, form.adds_begin, form.tokenizer)
    text = modelfile.write(file, ours, modelfile.stops(form.tokenizer, config), config)
    (output / MODELFILE).write_text(text, encoding="utf-8")


def to_compare(file: Path, name: str) -> Served:
    """The file for `fidelity.measure`."""
    kind = file.stem.removeprefix(f"{name}-")
    return Served(kind, file.stat().st_size, kind in quantising.QUANTISED, partial(predictions.opened, file))


@contextmanager
def _vocabulary(file: Path) -> Iterator[library.Vocabulary]:
    found = library.Vocabulary(file)
    try:
        yield found
    finally:
        found.close()


def _check(vocabulary: library.Vocabulary, tokenizer: Any, found: turns.Turns | None, name: str) -> int:
    prompts = template_check.Prompts(vocabulary.template, vocabulary.adds_begin, vocabulary.tokens)
    return template_check.check(prompts, tokenizer, found, name)


def _forced(tokenizer: Any) -> bool | None:
    """No begin token where the chat template writes none: llama.cpp would add one that training did not have."""
    return False if template_check.begins(tokenizer) is False else None


def _learn(tokenizer: Any) -> tuple[turns.Turns | None, list[str]]:
    if not tokenizer.chat_template:
        return None, ["The tokenizer has no chat template: Ollama sends the user's message as plain text."]
    if not isinstance(tokenizer.chat_template, str):
        raise UserError("The tokenizer has several chat templates, of which a GGUF file holds one. Keep one of them.")
    try:
        found = turns.learn(turns.renderer(tokenizer))
    except turns.Inexpressible as error:
        return None, [
            f"No Modelfile is written, because Ollama's templates cannot express this chat template: {error}. llama.cpp renders the template "
            "itself: use llama-server with `--jinja`."
        ]
    notes = []
    if found.system_start is None:
        notes.append("The chat template takes no system message, so Ollama leaves system messages out.")
    if found.strips:
        notes.append("The chat template removes white space around messages. Ollama keeps it.")
    if "strftime_now" in tokenizer.chat_template:
        notes.append("The chat template writes the date. In the Modelfile it stays the date of this export.")
    return found, notes
