"""Train a policy by PPO on one 4-bit base (Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, arXiv:2203.02155).

Differences from `trl.RLOOTrainer` (1.16), whose generation, reward functions, buffering and logging are kept:

1. Rewards are per token (the score on the last valid token, the KL where the configuration places it). `advantage` names the
   function of `trl_ext.rl.advantages` that turns them into advantages. Its declaration says whether there is a critic,
   whether completions of a prompt are compared, and whether a greedy one is sampled (`trl_ext.trainers.rollout.greedy`).
   With `gae` and its critic one completion per prompt is enough; TRL's needs two.
2. Critic and reward model are adapters with a scalar head on the policy's base (`trl_ext.trainers.rollout.roles`).
   Without a critic there is neither adapter nor head, and no optimizer group, checkpoint or metric of one.
3. The loss is clipped at the level of `importance_sampling_level` and added up as `loss_aggregation` says, by weights that
   are computed once per rollout, so it does not depend on micro-batches. `policy_objective` replaces the clipping.
4. Policy and critic have separate learning rates, and their gradients are clipped separately.
5. Adapter weights are float32 (`trl_ext.trainers.common.lora`), and the base is not changed.
6. A resumed run continues with the rollout that was interrupted (`trl_ext.trainers.ppo.checkpoint`).
7. The order of prompts depends only on seed and epoch, so a resumed run continues it.
8. All passes but sampling run in rows in which the completions of a prompt share it. If memory runs out in an update, the same
   step is run again, then in shorter rows (`trl_ext.trainers.rollout.backward`).
"""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.rl import kl, truth_table
from trl_ext.trainers.common import overrides
from trl_ext.trainers.common.model_card import ModelCard
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.ppo import checks
from trl_ext.trainers.ppo.checkpoint import PPOFiles
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.ppo.update import PPOUpdate
from trl_ext.trainers.rollout import reward_functions, roles
from trl_ext.trainers.rollout.trainer import RolloutTrainer

CARD_SETTINGS = (
    "num_iterations", "num_generations", "max_completion_length", "temperature", "policy_objective", "importance_sampling_level",
    "loss_aggregation", "normalize_advantages",
)  # fmt: skip


class PPOTrainer(FiniteSteps, StagedCheckpoint, ModelCard, RolloutTrainer):
    """Proximal policy optimisation, constructed like `trl.RLOOTrainer`.

    Overrides `create_optimizer` and `_clip_grad_norm` of transformers' `Trainer`, and the methods that its parents name.
    Attributes of TRL's trainer read: `use_vllm`, `generation_kwargs`, `optimizer`, `_metrics`.

    Attributes:
        beta: The KL coefficient of the configuration.
        kl_controller: Holds the KL coefficient in use.
    """

    _name = "PPO"
    _bypassed = overrides.OF_PPO
    _tag_names = ["trl", "trl-ext", "ppo"]  # noqa: RUF012
    _paper = {  # noqa: RUF012
        "title": "Proximal Policy Optimization Algorithms",
        "id": "1707.06347",
        "citation": "@article{schulman2017proximal,\n"
        "    title   = {{Proximal Policy Optimization Algorithms}},\n"
        "    author  = {John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford and Oleg Klimov},\n"
        "    year    = 2017,\n"
        "    journal = {arXiv:1707.06347},\n"
        "}",
    }

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: PPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Any = None,
        optimizers: tuple = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        """As TRL's trainer.

        Args:
            reward_funcs: A reward function, a sequence classifier or its path, or a list of them. Optional if
                `args.reward_adapter` is given, which comes last in `args.reward_weights`.

        Raises:
            TypeError: `args` is of another class.
            ValueError: Settings that cannot work; raised before weights are loaded where possible.
        """
        args = args or PPOConfig(output_dir="PPO-output")
        overrides.refuse(type(self), self._bypassed)
        sources = reward_functions.listed(reward_funcs)
        given = {
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "reward_processing_classes": reward_processing_classes,
            "callbacks": callbacks,
            "optimizers": optimizers,
            "quantization_config": quantization_config,
            "peft_config": peft_config,
        }
        checks.refuse(args, model, sources, given)
        self.kl_controller = _kl_controller(args)
        update = partial(PPOUpdate, kl_controller=self.kl_controller)
        super().__init__(model, sources, args, make_update=update, files=PPOFiles(args), beta=args.kl_coef, **given)
        if self.update.advantage.needs_critic:
            roles.add_critic(self.model, seed=args.seed)
        if self.accelerator.is_main_process:
            for note in checks.notes(args):
                warnings.warn(note, checks.SettingsWarning, stacklevel=2)
            if (note := checks.note_on_model(self)) is not None:
                warnings.warn(note, stacklevel=2)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """transformers' optimizer for the policy, with separate parameter groups for the critic, if there is one."""
        if self.optimizer is None:
            super().create_optimizer(model)  # only the policy's parameters require gradients now
            if not self.update.advantage.needs_critic:
                return self.optimizer
            decayed = set(self.get_decay_parameter_names(self.model))
            with roles.acting_as(self.model, roles.CRITIC):
                named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            for is_decayed in (True, False):
                group = [p for name, p in named if (name in decayed) == is_decayed]
                decay = self.args.weight_decay if is_decayed else 0.0
                settings = {"lr": self.args.critic_learning_rate, "weight_decay": decay}
                if group:
                    self.optimizer.add_param_group({"params": group, **settings})
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip policy and critic separately; returns the policy's norm and logs the critic's."""
        norm = self.accelerator.clip_grad_norm_(roles.policy_parameters(self.model), self.args.max_grad_norm)
        if not self.update.advantage.needs_critic:
            return norm
        critic = nn.utils.clip_grad_norm_(roles.critic_parameters(self.model), self.args.max_grad_norm)
        self._metrics["train"]["grad_norm/critic"].append(critic.item())
        return norm

    def card_method(self) -> dict[str, str]:
        args, advantage = self.args, self.update.advantage
        own = {**({"critic_learning_rate": None} if advantage.needs_critic else {}), **advantage.hyperparameters}
        copied = FROZEN_COPY in self.model.peft_config
        reference = (
            "a frozen copy of the adapter that training continues from"
            if copied
            else "the base model with its adapter off"
        )
        if not self.update.needs_reference:
            reference = "none: the KL coefficient is 0"
        cell = args.kl_estimator, args.kl_placement, args.kl_level
        return {
            "method": f"{self._name} (arXiv:{self._paper['id']})",
            "advantage": f"`{advantage.name}` ({advantage.paper}): {advantage.formula.replace('|', chr(92) + '|')}",
            "reference policy": reference,
            "rewards": ", ".join(f"`{name}`" for name in self.reward_func_names),
            "KL": f"`{' '.join(cell)}`, {args.kl_controller} coefficient {args.kl_coef:g}; gradient "
            f"{truth_table.GRADIENTS[cell][0].replace('|', chr(92) + '|')}",
            **{name: f"`{getattr(args, name)}`" for name in (*own, *CARD_SETTINGS) if hasattr(args, name)},
        }


def _kl_controller(args: PPOConfig) -> kl.FixedController:
    if args.kl_controller == "fixed":
        return kl.FixedController(args.kl_coef)
    return kl.AdaptiveController(args.kl_coef, target=args.kl_target, horizon=args.kl_horizon)
