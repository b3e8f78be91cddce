"""What a run shows and writes while it trains."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy

from trl_ext.report import metrics_file
from trl_ext.runs.signals import Guard, Interrupted
from trl_ext.support import atomic
from trl_ext.trainers.common.processes import on_any_process

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

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:  # it is, where training ended before its first step
            super().on_train_end(*args, **kwargs)


class ProgressLines(TrainerCallback):
    """The same numbers as a line now and then, where there is no terminal to draw a bar on."""

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


class AfterFirstStep(TrainerCallback):
    """Calls `action` once, after the first step of this process: what depends on the device is settled by then."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        action, self.action = self.action, None
        if action is not None and state.is_world_process_zero:
            action()


class StopWhenAsked(TrainerCallback):
    """After a signal: the step in progress ends, a checkpoint of it is saved, and training ends with `Interrupted`.

    Processes get a signal at different steps, so they agree once per step and all stop after the same one. The last step
    is no place to stop: what remains is to save its result. An evaluation in progress is finished first; one that is due
    is left out unless the best checkpoint is chosen by it.
    """

    def __init__(self, guard: Guard, accelerator: Accelerator) -> None:
        self.guard = guard
        self.accelerator = accelerator
        self.is_stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked(args, state, control)
        if self.is_stopping:
            control.should_log = True  # the steps since the last log would be lost
            control.should_evaluate = control.should_evaluate and args.load_best_model_at_end

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_stopping:
            # A launcher ends all processes when the first one leaves.
            self.accelerator.wait_for_everyone()
            raise Interrupted(self.guard.last_words())

    def _stop_if_asked(self, args: Any, state: Any, control: Any) -> None:
        if state.global_step >= state.max_steps:
            return
        if on_any_process(self.accelerator, self.guard.is_requested):
            self.is_stopping = control.should_save = True
            args.save_only_model = False  # this one is saved to go on from


class LogTheLastStep(TrainerCallback):
    """Logs the last step too where logs come every `logging_steps`: else a run ends with numbers of some steps before."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.logging_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps:
            control.should_log = True


class MetricsFile(TrainerCallback):
    """Every log as one line of `metrics.jsonl`, flushed at once so that a crash loses nothing.

    A resumed run goes on in the same file; lines of steps that are trained again are dropped first.

    Args:
        trainer: Whose logs they are, and who knows how long it has trained.
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
            # A closing summary is that of the steps until then.
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
    """JSON has no NaN; a lost value is written as the text it would have been."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.item() if hasattr(value, "item") else value
