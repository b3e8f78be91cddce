"""Building trainers and comparing what they compute."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig, TrainerCallback

from tests.conftest import pairs


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "target_modules": ["q_proj", "v_proj", "gate_proj"],
            "task_type": "CAUSAL_LM",
            **changes,
        }
    )


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


COMMON = {
    "max_steps": 3,
    "learning_rate": 0.01,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 3,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
"""Settings of every trainer here: three plain SGD steps, everything logged."""


def arguments(output_dir: Any, **changes: Any) -> dict[str, Any]:
    """Settings both TRL's and our configs take: three SGD steps of eight examples."""
    return {
        **COMMON,
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_length": 24,
        **changes,
    }


def build(cls: type, config: Any, model: str, *, examples: list[dict] | None = None, **kwargs: Any) -> Any:
    """A trainer of `cls` on the tiny model with a LoRA whose B is not zero.

    At B = 0 policy and reference agree and a comparison of sorted log-ratios or of clamps would prove nothing.
    """
    trainer = cls(
        model=kwargs.pop("model", model),
        args=config,
        train_dataset=Dataset.from_list(examples or pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=kwargs.pop("peft_config", lora()),
        **kwargs,
    )
    randomise_lora_b(trainer.model)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    return trainer


def swap_loss(trainer: Any, loss: Any) -> None:
    """Train another loss with a preference trainer that is built already."""
    from trl_ext.trainers.preference.loss_state import LossState

    trainer.loss = trainer.row_objective.loss = loss
    trainer.row_objective.state = LossState(loss)


def intercept(owner: Any, name: str, function: Callable) -> None:
    """Put `function` in place of a method of an object; it is given the method first, then the arguments."""
    setattr(owner, name, functools.partial(function, getattr(owner, name)))


def randomise_lora_b(model: torch.nn.Module, scale: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        if "lora_B" in name and parameter.requires_grad:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)


class Recorder(TrainerCallback):
    """Keeps every step's gradients and logs."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.logs: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = getattr(model, "module", model)
        self.gradients.append({n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append(dict(logs))


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """‖a − b‖ / ‖b‖ over all tensors together."""
    assert a.keys() == b.keys() and a
    difference = sum((a[name] - b[name]).square().sum() for name in a)
    norm = sum(b[name].square().sum() for name in b)
    assert norm > 0
    return (difference / norm).sqrt().item()


def same_gradients(gradients: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> bool:
    """Whether the gradients of all steps are equal bit by bit."""
    return all(
        found.keys() == other.keys() and all(torch.equal(found[name], other[name]) for name in other)
        for found, other in zip(gradients, expected, strict=True)
    )


def fewest_layers(footprint: Any, tokens: int, free: float) -> int:
    """The fewest first layers, recomputed, with which tokens fit; written again, without the code of the budget."""
    for count in range(footprint.layers + 1):
        kept = (footprint.layers - count) * footprint.stored
        at_the_end = kept + 0.4 * footprint.stored * (count < footprint.layers)
        again = 1.4 * footprint.stored * (count > 0)
        peak = count * footprint.checkpointed + max(at_the_end, again) + footprint.rest
        if tokens * peak + footprint.constant <= free:
            return count
    return footprint.layers
