"""What a run shows and writes while it trains."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from trl_ext.report import metrics_file

IN_THE_BAR = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy", "kl": "z"} | {
    "score": "score",
    "kl/sequence": "KL",
    "accuracy": "accuracy",
}


class MarginProgress(ProgressCallback):
    """transformers' progress bar with the few numbers that matter beside it, instead of printed dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and "loss" in (logs or {}):
            shown = {short: f"{logs[name]:.3g}" for name, short in IN_THE_BAR.items() if name in logs}
            self.training_bar.set_postfix(shown)


class AfterFirstStep(TrainerCallback):
    """Calls `action` once, after the first step of this process: what depends on the device is settled by then."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        action, self.action = self.action, None
        if action is not None and state.is_world_process_zero:
            action()


class MetricsFile(TrainerCallback):
    """Every log as one line of `metrics.jsonl`, flushed at once so that a crash loses nothing.

    A resumed run goes on in the same file; lines of steps that are trained again are dropped first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.time()
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.exists():
            kept = [record for record in metrics_file.read(self.path) if record["step"] <= state.global_step]
        self.path.write_text("".join(f"{json.dumps(record)}\n" for record in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        record = {"step": state.global_step, "seconds": round(time.time() - self.started, 3), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _plain(value) for name, value in record.items()}) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no NaN; a lost value is written as the text it would have been."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.item() if hasattr(value, "item") else value
