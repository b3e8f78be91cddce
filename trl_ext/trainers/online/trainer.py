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

from typing import Any

from trl_ext import losses
from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.model_card import ModelCard
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.online import checks
from trl_ext.trainers.online.config import OnlinePreferenceConfig
from trl_ext.trainers.online.pairs import OnlinePairs
from trl_ext.trainers.online.update import OnlineUpdate
from trl_ext.trainers.preference.run_directory import RunDirectory
from trl_ext.trainers.rollout import reward_functions
from trl_ext.trainers.rollout.checkpoint import RolloutCheckpoint
from trl_ext.trainers.rollout.trainer import RolloutTrainer


class OnlinePreferenceTrainer(
    FiniteSteps, StagedCheckpoint, ModelCard, RolloutCheckpoint, OnlinePairs, OnlineUpdate, RolloutTrainer
):
    """Preference optimisation from sampled pairs, constructed like `trl.RLOOTrainer`.

    Overrides the methods that its parents name. Attributes of TRL's trainer read: `beta`, `num_generations`,
    `num_iterations`.

    Attributes:
        loss: The loss on pairs.
    """

    _name = "Online preference optimisation"
    _tag_names = ["trl", "trl-ext", "online-preference"]  # noqa: RUF012
    _state_name = "online_state"

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
        sources = reward_functions.listed(reward_funcs)
        checks.refuse(args, model, sources, given)
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        super().__init__(model, sources, args, **given)
        # TRL runs a reference pass for any β but 0; what it computes with β itself is not used here.
        self.beta = float(self.loss.needs_reference)
        step_zero.announce(self)

    def card_method(self) -> dict[str, str]:
        return {
            "method": "online preference optimisation (arXiv:2402.04792)",
            "rewards": ", ".join(f"`{name}`" for name in self.reward_func_names),
            "pairs": f"best and worst of {self.num_generations} completions, rollouts used {self.num_iterations} times",
            **RunDirectory.card_method(self),
        }
