"""Train a policy by GRPO, group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300).

Differences from `trl.GRPOTrainer` (1.16), besides those of `trl_ext.trainers.ppo.trainer`, which does the work:

1. The loss is normalised over the rollout, so it depends on no micro-batch. For `loss_type: bnpo` TRL's does.
2. Tokens of completions without a score are left out of the loss. In TRL they have advantage 0 and count in its divisor.
3. Tools, environments and a `rollout_func` are refused.
"""

from typing import Any

from trl_ext.trainers.grpo.config import GRPOConfig
from trl_ext.trainers.ppo.trainer import PPOTrainer
from trl_ext.trainers.rollout import checks


class GRPOTrainer(PPOTrainer):
    """GRPO, constructed like `trl.GRPOTrainer`."""

    _name = "GRPO"
    _tag_names = ["trl", "trl-ext", "grpo"]  # noqa: RUF012
    _paper = {  # noqa: RUF012
        "title": "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        "id": "2402.03300",
        "citation": "@article{shao2024deepseekmath,\n"
        "    title   = {{DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models}},\n"
        "    author  = {Zhihong Shao and Peiyi Wang and Qihao Zhu and Runxin Xu and Junxiao Song and Mingchuan Zhang and "
        "Y. K. Li and Y. Wu and Daya Guo},\n"
        "    year    = 2024,\n"
        "    journal = {arXiv:2402.03300},\n"
        "}",
    }

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *given: Any, **named: Any
    ) -> None:
        """As `PPOTrainer`, whose other arguments these are.

        Raises:
            TypeError: `args` is of another class.
            ValueError: Settings that cannot work; raised before weights are loaded where possible.
        """
        checks.refuse_tools(named)
        args = args or GRPOConfig(output_dir="GRPO-output")
        checks.require(GRPOConfig, args, self)
        super().__init__(model, reward_funcs, args, *given, **named)
