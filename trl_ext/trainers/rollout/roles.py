"""Switch the roles of PPO on one base: the adapter and head that compute, and the parameters that receive gradients.

| role      | adapter   | head                                  |
|-----------|-----------|---------------------------------------|
| policy    | `default` | the language model's own              |
| reference | none (or `ref`, the frozen copy of an adapter that training continues from) | the same |
| critic    | `critic`  | `value_head`, trained                 |
| reward    | `reward`  | `reward_head`, frozen                 |

PEFT saves the adapter `default` at the root of a folder, and TRL expects the policy under this name. In PEFT only the
active adapter requires gradients, and `acting_as` does the same for the heads: a role's parameters are trainable exactly
while it is active. Run its forward *and* backward inside: with gradient checkpointing the backward pass runs the layers
again, with the adapter that is active then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from peft import PeftModel
from torch import nn

from trl_ext.reference import frozen_copy, switching
from trl_ext.trainers.rollout.value_head import ValueHead

POLICY, CRITIC, REWARD = "default", "critic", "reward"
HEADS = {CRITIC: "value_head", REWARD: "reward_head"}


@contextmanager
def acting_as(model: PeftModel, role: str) -> Iterator[None]:
    """Inside, `model` computes with the adapter of `role`, and only parameters of this role require gradients."""
    before = model.active_adapter
    if role == before:
        yield
        return
    _activate(model, role)
    try:
        yield
    finally:
        _activate(model, before)


def _activate(model: PeftModel, role: str) -> None:
    switching.activate(model, role, is_trained=role != REWARD)
    if CRITIC in model.peft_config:
        model.value_head.requires_grad_(role == CRITIC)


def add_critic(model: PeftModel, seed: int) -> None:
    """Give `model` a critic: an adapter shaped as the policy's, in float32, and a value head.

    Its LoRA starts as the identity, whatever the policy's initialisation (some change the base), and has no dropout. The
    random state is unchanged afterwards.
    """
    config = frozen_copy.inert(model.peft_config[POLICY])
    config = replace(
        config, inference_mode=False, **({"modules_to_save": None} if hasattr(config, "modules_to_save") else {})
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(CRITIC, config)
    model.add_module(HEADS[CRITIC], ValueHead(_hidden_size(model), device=model.device))
    for parameter in critic_parameters(model):
        parameter.data = parameter.data.float()
    _activate(model, POLICY)


def policy_parameters(model: PeftModel) -> list[nn.Parameter]:
    with acting_as(model, POLICY):
        return [parameter for parameter in model.parameters() if parameter.requires_grad]


def critic_parameters(model: PeftModel) -> list[nn.Parameter]:
    """The critic's adapter weights and those of its head."""
    with acting_as(model, CRITIC):
        return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _hidden_size(model: PeftModel) -> int:
    return model.get_base_model().config.get_text_config().hidden_size
