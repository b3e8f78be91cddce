"""Callbacks with which a run controls its trainer: stop after a signal, act once after the first step."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback

from trl_ext.runs.signals import Guard, Interrupted
from trl_ext.trainers.common.processes import on_any_process


class AfterFirstStep(TrainerCallback):
    """Calls `action` once, after the first step of this process, when values that depend on the device are known."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        action, self.action = self.action, None
        if action is not None and state.is_world_process_zero:
            action()


class StopWhenAsked(TrainerCallback):
    """After a signal: finishes the current step, saves a checkpoint and ends training with `Interrupted`.

    Processes receive a signal at different steps, so they agree once per step and all stop after the same one. After the
    last step training does not stop early, because only its result remains to be saved. An evaluation in progress is
    finished first; one that is due is skipped unless it decides the best checkpoint.
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
            args.save_only_model = False  # this checkpoint is saved to be resumed
