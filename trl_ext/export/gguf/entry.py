"""Run a converter of llama.cpp: `python entry.py CONVERTER ARGUMENTS`. A script of its own, which imports nothing of trl-ext.

llama.cpp recognises how a tokenizer splits text by a hash of the tokens of one text, so that a tokenizer with another vocabulary
is unknown even if it splits text in a known way. For these the way is read from tokenizer.json.
"""

import json
import os
import runpy
import sys
from pathlib import Path

NO_BEGIN = "TRL_EXT_GGUF_NO_BEGIN"
"""Environment variable: set if the file says that no begin token is added to prompts."""

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def named(tokenizer: dict) -> str | None:
    """llama.cpp's name of the way in which a tokenizer splits text, from tokenizer.json; `None` if it is unknown."""
    split, normalizer = tokenizer.get("pre_tokenizer") or {}, tokenizer.get("normalizer")
    parts = split.get("pretokenizers", [split])
    *before, last = [{key: value for key, value in part.items() if key != "trim_offsets"} for part in parts]
    splits_words = last == BYTE_LEVEL | {"use_regex": True}
    if normalizer is None and not before and splits_words:
        return "gpt-2"
    if normalizer is None and before == [{"type": "Digits", "individual_digits": True}] and splits_words:
        return "smollm"
    if len(before) == 1 and before[0].get("type") == "Split" and last == BYTE_LEVEL | {"use_regex": False}:
        pattern = before[0].get("pattern", {}).get("Regex")
        return {(LLAMA_3, None): "llama-bpe", (QWEN_2, "NFC"): "qwen2"}.get(
            (pattern, normalizer and normalizer["type"])
        )
    return None


def recognise_by_structure() -> None:
    """Let the converter ask `named` about a tokenizer that it does not know."""
    try:
        from conversion.base import TextModel
    except ImportError:  # an older llama.cpp, whose converter is one script
        return
    by_hash = TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self, tokenizer):
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:
            found = named(json.loads(Path(self.dir_model, "tokenizer.json").read_text(encoding="utf-8")))
            if found is None:
                raise
            return found

    TextModel.get_vocab_base_pre = get_vocab_base_pre


def add_no_begin_token() -> None:
    """Let the file say so, whatever the post-processor of tokenizer.json does to plain text."""
    import gguf

    write = gguf.GGUFWriter.add_add_bos_token
    gguf.GGUFWriter.add_add_bos_token = lambda self, value: write(self, False)


def main() -> None:
    script, *arguments = sys.argv[1:]
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    recognise_by_structure()
    if os.environ.get(NO_BEGIN):
        add_no_begin_token()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
