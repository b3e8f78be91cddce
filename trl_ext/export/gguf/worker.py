"""Compute logits with llama-cpp-python: `python worker.py FILE LONGEST THREADS`. A script of its own, without torch.

Each line of its input is a list of token ids and the place from which logits are wanted. The answer is a line with the numbers of rows
and columns, followed by the logits in float32.
"""

import ctypes
import json
import os
import sys

import llama_cpp
import numpy as np

BATCH = 512
"""Tokens of one forward pass."""


@llama_cpp.llama_log_callback
def only_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level == 4:  # llama.cpp's number for errors
        sys.stderr.buffer.write(text)


class Model:
    """A GGUF file, all of whose layers are on the GPU if llama.cpp was built for one."""

    def __init__(self, file: str, longest: int, threads: int) -> None:
        llama_cpp.llama_log_set(only_errors, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999
        # Weights as they are in the file. Rearranged copies for AMX fault on virtual machines that announce AMX without allowing it.
        params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(file), params)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch = max(longest, BATCH), BATCH
        settings.n_threads = settings.n_threads_batch = threads
        self.context = self.model and llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            sys.exit(1)
        self.size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def logits(self, ids: list[int], first: int) -> np.ndarray:
        """Logits after each token from the place `first` on, (rows, V)."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        found = np.empty((len(ids) - first, self.size), np.float32)
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            self.batch.n_tokens = len(part)
            for place, token in enumerate(part):
                self.batch.token[place], self.batch.pos[place] = token, start + place
                self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, 0
                self.batch.logits[place] = start + place >= first
            if llama_cpp.llama_decode(self.context, self.batch):
                sys.exit(1)
            for place in range(max(first - start, 0), len(part)):
                row = llama_cpp.llama_get_logits_ith(self.context, place)
                found[start + place - first] = np.ctypeslib.as_array(row, (self.size,))
        return found


def main() -> None:
    model = Model(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    for line in sys.stdin:
        found = model.logits(*json.loads(line))
        sys.stdout.buffer.write(json.dumps(found.shape).encode() + b"\n" + found.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
