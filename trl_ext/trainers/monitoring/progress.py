"""Show a run's progress: as a bar on a terminal, as a line every 30 seconds elsewhere."""

import time
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

IN_THE_BAR = {"loss": "loss", "rewards/margins": "reward margin", "rewards/accuracies": "accuracy", "kl": "z"} | {
    "score": "score",
    "kl/sequence": "KL",
    "accuracy": "accuracy",
}


class MarginProgress(ProgressCallback):
    """transformers' progress bar with a few metrics beside it, instead of printed dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and "loss" in (logs or {}):
            shown = {short: f"{logs[name]:.3g}" for name, short in IN_THE_BAR.items() if name in logs}
            self.training_bar.set_postfix(shown)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:  # `None` if training ended before its first step
            super().on_train_end(*args, **kwargs)


class ProgressLines(TrainerCallback):
    """The same metrics as a line every `SECONDS`, where there is no terminal for a bar."""

    SECONDS = 30

    def __init__(self) -> None:
        self.said = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        now = time.monotonic()
        if not state.is_world_process_zero or "loss" not in (logs or {}) or now - self.said < self.SECONDS:
            return
        self.said = now
        shown = ", ".join(f"{short} {logs[name]:.3g}" for name, short in IN_THE_BAR.items() if name in logs)
        print(f"  step {state.global_step:,} of {state.max_steps:,}: {shown}", flush=True)
