"""Warn, once each, about common failures that a run's metrics show (`trl_ext.trainers.monitoring.symptoms`)."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from trl_ext.report import metrics_file
from trl_ext.trainers.common.console import say
from trl_ext.trainers.monitoring.log_window import PATIENCE, Facts
from trl_ext.trainers.monitoring.rollout_symptoms import AT_END, is_silent
from trl_ext.trainers.monitoring.symptoms import SYMPTOMS

SAMPLED = 8
"""Number of adapter matrices that are compared with their initial values."""


class Watch(TrainerCallback):
    """Prints a symptom when it first occurs, and adds it to the metrics file as `{"step", "warning", "text"}`.

    It also checks lora_A, once: if fewer than half of its elements have changed after 20 steps (and warmup), steps are too
    small for the dtype. In float32 all elements change; in bfloat16 at preference learning rates 4 % change in 800 steps. A
    gradient of zero has a warning of its own. lora_B is not checked: it starts at 0, where every dtype resolves small steps.
    lora_A changes only after lora_B has, so not before step 2.

    Args:
        trainer: The trainer of the run.
        path: The run's `metrics.jsonl`. Add this callback after the one that writes it.
    """

    def __init__(self, trainer: Any, path: Path) -> None:
        self.trainer = trainer
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.facts = facts_of(self.trainer, state.max_steps)
        self.records = [record for record in state.log_history if "loss" in record]
        self.said = {name for name, _ in warnings_in(self.path)} if state.global_step else set()
        self.initial = sample(self.trainer.model)
        self.look_at = state.global_step + max(PATIENCE, self.facts.warmup_steps + PATIENCE // 2)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        self.records.append({"step": state.global_step, **logs})
        for name, symptom in SYMPTOMS.items():
            if name not in self.said and (text := symptom(self.records, self.facts)) is not None:
                self._warn(name, text)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero or state.global_step != self.look_at:
            return
        if "no_gradient" in self.said or is_silent(self.records):
            return
        if (text := still(self.initial, self.trainer.model, self.facts)) is not None:
            self._warn("still_adapter", text)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        for name, (of, said_before) in AT_END.items():
            if not self.said & said_before and (text := of(self.records)) is not None:
                self._warn(name, text)

    def _warn(self, name: str, text: str) -> None:
        self.said.add(name)
        step = self.trainer.state.global_step
        say(self.trainer.accelerator, f"warning, step {step}: {text}", is_warning=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "warning": name, "text": text}, ensure_ascii=False) + "\n")


def warnings_in(path: Path) -> list[tuple[str, str]]:
    """Name and text of every warning in a metrics file; the text begins with the step."""
    records = metrics_file.read(path) if path.exists() else []
    return [(r["warning"], f"step {r['step']}: {r['text']}") for r in records if "warning" in r]


def facts_of(trainer: Any, max_steps: int) -> Facts:
    """Facts about a run that symptoms use."""
    args, loss = trainer.args, getattr(trainer, "loss", None)
    known = {
        "learning_rate": args.learning_rate,
        "warmup_steps": args.get_warmup_steps(max_steps),
        "examples_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
    }
    if loss is None:
        return Facts(**known)
    parts = getattr(loss, "components", (loss,))
    beta = loss.hyperparameters.get("beta") if len(parts) == 1 and loss.needs_reference else None
    names = tuple(part.name for part in parts)
    return Facts(names, loss.paired, loss.initial_value, beta, **known)


def sample(model: Any) -> dict[str, Tensor]:
    """Copies of some of the trained lora_A matrices, evenly spaced over the layers."""
    found = {name: p for name, p in model.named_parameters() if "lora_A" in name and p.requires_grad}
    chosen = list(found.items())[:: max(len(found) // SAMPLED, 1)]
    return {name: matrix.detach().cpu().clone() for name, matrix in chosen}


def still(before: dict[str, Tensor], model: Any, facts: Facts) -> str | None:
    """The warning if fewer than half of the elements have changed; else `None`."""
    total = sum(matrix.numel() for matrix in before.values())
    changed = sum(
        (parameter.detach().cpu() != before[name]).sum().item()
        for name, parameter in model.named_parameters()
        if name in before
    )
    if not total or changed >= total / 2:
        return None
    dtype = str(next(iter(before.values())).dtype).removeprefix("torch.")
    way = "" if dtype == "float32" else "keep the adapter in float32 (`lora_dtype: float32`) or "
    return (
        f"only {changed / total:.1%} of lora_A has changed since training began, because steps are smaller than the "
        f"resolution of {dtype}. To train it, {way}raise `learning_rate` (it is {facts.learning_rate:g})."
    )
