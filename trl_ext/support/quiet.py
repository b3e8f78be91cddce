"""Hide messages of libraries that users of trl-ext cannot act on."""

import logging
import os
import sys
import warnings

BITSANDBYTES = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # looked for on the Hub; optional
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",  # at every 8-bit layer of every pass
}
"""Logger → beginning of the message."""

RENAMED = r"`\w*gradient_checkpointing\w*` is deprecated"
"""A warning of transformers about calls that TRL, PEFT and its own trainer make."""


def hide_library_messages() -> None:
    """Hide these messages in this process. Call it before the libraries are imported."""
    for name, beginning in BITSANDBYTES.items():
        logging.getLogger(name).addFilter(
            lambda record, beginning=beginning: not str(record.msg).startswith(beginning)
        )
    warnings.filterwarnings("ignore", RENAMED, FutureWarning, r"transformers\.")


def hide_progress_off_terminals() -> None:
    """Show no progress bars of loading and saving in files and pipes. Call it before the libraries are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def hide_bars_of_datasets() -> None:
    """Show no bars of `datasets` where it was imported before its environment variable was set."""
    imported = sys.modules.get("datasets")
    if imported is not None and os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS", "").upper() in (
        "1",
        "ON",
        "YES",
        "TRUE",
    ):
        imported.disable_progress_bars()


def hide_loading_bars() -> None:
    """Show no bars of transformers for loading and saving weights, also on a terminal. Downloads keep theirs there."""
    from transformers.utils import logging as of_transformers

    of_transformers.set_tqdm_hook(lambda make, args, kwargs: make(*args, **{**kwargs, "disable": True}))
