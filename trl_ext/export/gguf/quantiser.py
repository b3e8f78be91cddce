"""Quantise with llama-cpp-python: `python quantiser.py SOURCE OUTPUT TYPE THREADS`, as llama-quantize is called.

A script of its own, so that Ctrl-C ends it at once, and a fault in native code is an error message.
"""

import ctypes
import os
import sys

import llama_cpp
from worker import only_errors


def main() -> None:
    source, output, kind, threads = sys.argv[1:]
    llama_cpp.llama_log_set(only_errors, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), int(threads)
    sys.exit(llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), params))


if __name__ == "__main__":
    main()
