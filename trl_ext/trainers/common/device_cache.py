"""Empty the device's cache of freed memory every few steps (`torch_empty_cache_steps`)."""

from typing import Any

from accelerate.utils.memory import clear_device_cache


def empty_on_schedule(trainer: Any) -> None:
    """Empty the cache if it is due at this step. transformers does so in its own `training_step`, which is not called here."""
    every = trainer.args.torch_empty_cache_steps
    if every is not None and trainer.state.global_step % every == 0:
        clear_device_cache()
