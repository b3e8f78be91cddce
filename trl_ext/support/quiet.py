"""What libraries say whenever they are used as here, and nobody who uses trl-ext can act upon: this and no more is hidden."""

import logging
import os
import sys
import warnings

BITSANDBYTES = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # looked for on the Hub; it does without
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",  # at every 8-bit layer of every pass
}
"""Who says it → how it begins."""

RENAMED = r"`\w*gradient_checkpointing\w*` is deprecated"
"""transformers says so of calls that TRL, PEFT and its own trainer make."""


def hide_what_nobody_can_act_upon() -> None:
    """For this process; before the libraries are imported."""
    for name, beginning in BITSANDBYTES.items():
        logging.getLogger(name).addFilter(
            lambda record, beginning=beginning: not str(record.msg).startswith(beginning)
        )
    warnings.filterwarnings("ignore", RENAMED, FutureWarning, r"transformers\.")


def hide_progress_off_terminals() -> None:
    """No bars of loading and saving weights in files and pipes; before the libraries are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
