"""Read the vocabulary of GGUF files through llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

from trl_ext.support.errors import UserError

ERROR_LEVEL = 4
"""llama.cpp's number for messages about errors."""

_errors: list[str] = []


@llama_cpp.llama_log_callback
def _keep_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == ERROR_LEVEL:
        _errors.append(text.decode(errors="replace").strip())


def silence() -> None:
    """Print no messages of llama.cpp from now on. Those about errors are kept."""
    _errors.clear()
    llama_cpp.llama_log_set(_keep_errors, ctypes.c_void_p(0))


def last_error() -> str:
    """The last message about an error since `silence`; empty if there was none."""
    return next((error for error in reversed(_errors) if error), "")


class Vocabulary:
    """Tokens and chat template of a GGUF file; its weights are not loaded.

    Args:
        file: A GGUF file, which may hold a vocabulary alone.

    Raises:
        UserError: llama.cpp cannot load it.
    """

    def __init__(self, file: Path) -> None:
        silence()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(file), params)
        if not self._model:
            raise UserError(f"llama.cpp cannot load {file}: {last_error() or 'no reason given'}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)

    @property
    def template(self) -> str | None:
        """The chat template in Jinja."""
        found = llama_cpp.llama_model_chat_template(self._model, None)
        return found.decode() if found else None

    @property
    def adds_begin(self) -> bool:
        """Whether the begin token comes before the tokens of every prompt."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    @property
    def size(self) -> int:
        return llama_cpp.llama_vocab_n_tokens(self._vocab)

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def tokens(self, text: str) -> list[int]:
        """Ids of a prompt's tokens, as llama.cpp's programs and Ollama read it: special tokens by their names."""
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, True, True)
        return list(ids[:count])
