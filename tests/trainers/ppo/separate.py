"""The same gradients from separate models: full logits, formulas written out, one model per role."""

from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.trainers.helpers import lora
from trl_ext.support.frozen_base import keep_exact_cpu_kernels


class WeightsBefore(TrainerCallback):
    """Trained weights at the beginning of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        named = getattr(model, "module", model).named_parameters()
        self.steps.append({name: p.detach().clone() for name, p in named if is_trained(name)})


def is_trained(name: str) -> bool:
    return ".default." in name or is_critic(name)


def is_critic(name: str) -> bool:
    return ".critic." in name or name.startswith("value_head")


def gradients(
    path: str, weights: dict[str, torch.Tensor], batches: list[dict], quantization: Any = None
) -> dict[str, torch.Tensor]:
    """Gradients of both roles' losses, averaged over micro-batches, under the names they have on the shared base.

    Each model is loaded from `path`, and quantised, for itself.
    """
    policy, critic = (_model(path, weights, adapter, quantization) for adapter in ("default", "critic"))
    head = {name: weights[f"value_head.{name}"].clone().requires_grad_() for name in ("weight", "bias")}
    for batch in batches:
        (_policy_loss(policy, batch) / len(batches)).backward()
        (_critic_loss(critic, head, batch) / len(batches)).backward()
    found = {f"value_head.{name}": parameter.grad for name, parameter in head.items()}
    for model, adapter in ((policy, "default"), (critic, "critic")):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[name.replace(".default.", f".{adapter}.")] = parameter.grad
    return found


def _model(path: str, weights: dict[str, torch.Tensor], adapter: str, quantization: Any) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(path, quantization_config=quantization)
    model = get_peft_model(base, lora())
    keep_exact_cpu_kernels(model)
    for name, parameter in model.named_parameters():
        if ".default." in name:
            parameter.data.copy_(weights[name.replace(".default.", f".{adapter}.")])
    return model


def _sequences(batch: dict) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        "attention_mask": torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
    }


def log_ratios(path: str, weights: dict[str, torch.Tensor], batches: list[dict]) -> list[torch.Tensor]:
    """log π − log π_old per token of each batch, 0 outside the mask, of a policy with these weights."""
    policy = _model(path, weights, "default", None)
    with torch.no_grad():
        return [(_logps(policy, batch) - batch["old_per_token_logps"]) * batch["loss_mask"] for batch in batches]


def _logps(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    logits = model(**_sequences(batch)).logits[:, -batch["completion_ids"].size(1) - 1 : -1]
    return logits.log_softmax(-1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)


def _policy_loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """Eq. 7 of the PPO paper, over the mean length of the rollout."""
    mask = batch["loss_mask"]
    ratio = ((_logps(model, batch) - batch["old_per_token_logps"]) * mask).exp()
    advantages = batch["token_advantages"]
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return -(surrogate * mask).sum() / len(mask) / batch["mean_length"]


def _critic_loss(model: torch.nn.Module, head: dict[str, torch.Tensor], batch: dict) -> torch.Tensor:
    length, mask = batch["completion_ids"].size(1), batch["loss_mask"]
    hidden = model(**_sequences(batch), output_hidden_states=True).hidden_states[-1]
    values = hidden[:, -length - 1 : -1] @ head["weight"] + head["bias"]
    clipped = batch["values"] + (values - batch["values"]).clamp(-0.2, 0.2)
    errors = torch.max((values - batch["returns"]) ** 2, (clipped - batch["returns"]) ** 2)
    return 0.1 * 0.5 * (errors * mask).sum() / len(mask) / batch["mean_length"]
