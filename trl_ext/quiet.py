"""What libraries say whenever they are used as here, and nobody who uses trl-ext can act upon: this and no more is hidden."""

import logging
import os
import sys
import warnings

OPTIONAL_KERNEL = "Failed to load CPU gemm_4bit_forward"
"""bitsandbytes looks for it on the Hub and does without."""

RENAMED = r"`\w*gradient_checkpointing\w*` is deprecated"
"""transformers says so of calls that TRL, PEFT and its own trainer make."""


def hide_what_nobody_can_act_upon() -> None:
    """For this process; before the libraries are imported."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(lambda record: not str(record.msg).startswith(OPTIONAL_KERNEL))
    warnings.filterwarnings("ignore", RENAMED, FutureWarning, r"transformers\.")


def hide_progress_off_terminals() -> None:
    """No bars of loading and saving weights in files and pipes; before the libraries are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
