"""Preference losses on pairs sampled on the way (Guo et al. 2024, arXiv:2402.04792).

Pairs written down beforehand tell less and less about a policy that moves away from the one they were sampled from. Here
the policy answers each prompt several times, the reward sources score the answers, and the best and the worst are a pair.

How it departs from `trl.RLOOTrainer` (1.16), whose generation, reward functions, buffering and logging it keeps:

1. a rollout is cut into pairs instead of completions, and the loss is one of `trl_ext.losses`;
2. completions of equal score carry no preference: their pair is left out, and the others weigh the more;
3. a loss that reads no reference value costs no reference pass;
4. adapter weights are float32 (`trl_ext.trainers.common.lora`), and the base stays as it was loaded;
5. a resumed run goes on with the very rollout it was in (`trl_ext.trainers.rollout.checkpoint`);
6. the order of prompts is a function of seed and epoch, and so survives a resume too;
7. where memory runs out in an update, the same micro-batch runs again in halves (`trl_ext.trainers.rollout.micro_batches`).
"""

import math
from functools import partial
from typing import Any

from trl_ext import losses
from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.model_card import ModelCard, card_of_loss
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.online.config import OnlinePreferenceConfig
from trl_ext.trainers.online.update import PairUpdate
from trl_ext.trainers.rollout import checks, reward_functions
from trl_ext.trainers.rollout.checkpoint import RolloutFiles
from trl_ext.trainers.rollout.trainer import RolloutTrainer


class OnlinePreferenceTrainer(FiniteSteps, StagedCheckpoint, ModelCard, RolloutTrainer):
    """Preference optimisation from sampled pairs, constructed like `trl.RLOOTrainer`.

    Overrides the methods that its parents name. Attributes of TRL's trainer read: `beta`, `num_generations`,
    `num_iterations`.

    Attributes:
        loss: The loss on pairs.
    """

    _name = "Online preference optimisation"
    _tag_names = ["trl", "trl-ext", "online-preference"]  # noqa: RUF012

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: OnlinePreferenceConfig | None = None, **given: Any
    ) -> None:
        """As TRL's trainer, whose other arguments are given by keyword.

        Args:
            reward_funcs: One reward function, path of a sequence classifier or loaded one, or a list of them. May be
                left out where `args.reward_adapter` is the only source; it comes last in `args.reward_weights`.

        Raises:
            TypeError: `args` is another configuration.
            ValueError: Settings that cannot work here; where possible before weights are loaded.
        """
        args = args or OnlinePreferenceConfig(output_dir="Online-output")
        if not isinstance(args, OnlinePreferenceConfig):
            raise TypeError(f"OnlinePreferenceTrainer takes an OnlinePreferenceConfig, not a {type(args).__name__}.")
        sources = reward_functions.listed(reward_funcs)
        checks.refuse(args, model, sources, given)
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        super().__init__(
            model,
            sources,
            args,
            make_update=partial(PairUpdate, loss=self.loss, check_first_step=self._check_first_step),
            files=RolloutFiles(args, method=self._name, state_name="online_state"),
            **given,
        )
        # TRL runs a reference pass for any β but 0; what it computes with β itself is not used here.
        self.beta = float(self.loss.needs_reference)
        step_zero.announce(self)

    def _check_first_step(self, loss: float | None, apart: float | None) -> None:
        """Compare the first step's loss with the value its formula gives at policy = reference.

        Args:
            loss: Its mean over all pairs with a preference, if there is any.
            apart: Mean distance of policy and reference, in nats per token.

        Raises:
            WrongInitialLossError: It is another one.
        """
        if self.state.global_step > 0:
            return  # resumed
        if loss is None:
            say(self.accelerator, "  first step not checked: none of its pairs has a preference")
        elif math.isfinite(loss):  # else `trl_ext.trainers.common.nonfinite` judges it
            step_zero.check(self, loss, apart)

    def card_method(self) -> dict[str, str]:
        return {
            "method": "online preference optimisation (arXiv:2402.04792)",
            "rewards": ", ".join(f"`{name}`" for name in self.reward_func_names),
            "pairs": f"best and worst of {self.num_generations} completions, rollouts used {self.num_iterations} times",
            **card_of_loss(self.loss, step_zero.reference_of(self)),
        }
