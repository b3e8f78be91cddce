"""Train a policy by a preference loss on pairs that it samples itself (Guo et al. 2024, arXiv:2402.04792).

A fixed set of pairs becomes less informative as the policy moves away from the model that they were sampled from. Here the
policy samples several completions of each prompt, the reward sources score them, and the best and the worst form a pair.

Differences from `trl.RLOOTrainer` (1.16), whose generation, reward functions, buffering and logging are kept:

1. A rollout is cut into pairs instead of completions, and the loss is one of `trl_ext.losses`.
2. Prompts whose completions have equal scores are left out, and the other pairs get more weight.
3. For a loss that reads no reference, no reference pass is run.
4. Adapter weights are float32 (`trl_ext.trainers.common.lora`), and the base is not changed.
5. A resumed run continues with the rollout that was interrupted (`trl_ext.trainers.rollout.checkpoint`).
6. The order of prompts depends only on seed and epoch, so a resumed run continues it.
7. All passes but sampling run in rows in which the completions of a prompt share it. If memory runs out in an update, the same
   step is run again, then in shorter rows (`trl_ext.trainers.rollout.backward`).
"""

import math
from functools import partial
from typing import Any

from trl_ext import losses
from trl_ext.trainers.common import overrides, step_zero
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.example_losses import ExampleLosses, changed_by
from trl_ext.trainers.common.model_card import ModelCard, card_of_loss
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.online.config import OnlinePreferenceConfig
from trl_ext.trainers.online.update import PairUpdate
from trl_ext.trainers.rollout import checks, reward_functions
from trl_ext.trainers.rollout.checkpoint import RolloutFiles
from trl_ext.trainers.rollout.trainer import RolloutTrainer


class OnlinePreferenceTrainer(FiniteSteps, StagedCheckpoint, ExampleLosses, ModelCard, RolloutTrainer):
    """Preference optimisation on sampled pairs, constructed like `trl.RLOOTrainer`.

    Overrides the methods that its parents name. Attributes of TRL's trainer read: `num_generations`,
    `num_iterations`.

    Attributes:
        beta: β of the loss; `None` if it has none.
        loss: The loss on pairs.
    """

    _name = "Online preference optimisation"
    _tag_names = ["trl", "trl-ext", "online-preference"]  # noqa: RUF012

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: OnlinePreferenceConfig | None = None, **given: Any
    ) -> None:
        """As TRL's trainer, whose other arguments are given by keyword.

        Args:
            reward_funcs: A reward function, a sequence classifier or its path, or a list of them. Optional if
                `args.reward_adapter` is given, which comes last in `args.reward_weights`.

        Raises:
            TypeError: `args` is of another class.
            ValueError: Settings that cannot work; raised before weights are loaded where possible.
        """
        args = args or OnlinePreferenceConfig(output_dir="Online-output")
        if not isinstance(args, OnlinePreferenceConfig):
            raise TypeError(f"OnlinePreferenceTrainer takes an OnlinePreferenceConfig, not a {type(args).__name__}.")
        overrides.refuse(type(self), self._bypassed)
        sources = reward_functions.listed(reward_funcs)
        checks.refuse(args, model, sources, given)
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        super().__init__(
            model,
            sources,
            args,
            make_update=partial(
                PairUpdate, loss=self.loss, adjust=self.example_losses, check_first_step=self._check_first_step
            ),
            files=RolloutFiles(args, method=self._name, state_name="online_state"),
            beta=args.beta,
            **given,
        )
        step_zero.announce(self)

    def _check_first_step(self, loss: float | None, apart: float | None) -> None:
        """Compare the loss of the first step with the value that its formula gives at policy = reference.

        Args:
            loss: Its mean over all pairs with a preference; `None` without any.
            apart: Mean distance of policy and reference, in nats per token.

        Raises:
            WrongInitialLossError: They differ.
        """
        if self.state.global_step > 0:
            return  # resumed
        if loss is None:
            say(self.accelerator, "loss at the first step: not checked, because none of its pairs has a preference")
        elif math.isfinite(loss):  # else `trl_ext.trainers.common.nonfinite` judges it
            step_zero.check(self, loss, apart)

    def card_method(self) -> dict[str, str]:
        return {
            "method": "online preference optimisation (arXiv:2402.04792)",
            "rewards": ", ".join(f"`{name}`" for name in self.reward_func_names),
            "pairs": f"best and worst of {self.num_generations} completions; epochs per rollout: {self.num_iterations}",
            **card_of_loss(self.loss, step_zero.reference_of(self), changed_by(self)),
        }
