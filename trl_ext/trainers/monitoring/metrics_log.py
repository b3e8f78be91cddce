"""Write every log of a run to `metrics.jsonl`."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from trl_ext.report import metrics_file
from trl_ext.support import atomic


class LogTheLastStep(TrainerCallback):
    """Logs the last step, even if it is not a multiple of `logging_steps`."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.logging_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps:
            control.should_log = True


class MetricsFile(TrainerCallback):
    """Every log as one line of `metrics.jsonl`, flushed at once so that a crash loses nothing.

    A resumed run continues the same file; lines of steps that are trained again are removed first.

    Args:
        trainer: The trainer, which knows its training time.
        path: The file.
    """

    def __init__(self, trainer: Any, path: Path) -> None:
        self.trainer = trainer
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.exists():
            # The closing summary covers only the steps before it.
            records = [record for record in metrics_file.read(self.path) if "train_runtime" not in record]
            kept = [record for record in records if record["step"] <= state.global_step]
        atomic.write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        record = {"step": state.global_step, "seconds": round(self.trainer.trained_seconds, 3), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _plain(value) for name, value in record.items()}) + "\n")


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.item() if hasattr(value, "item") else value
