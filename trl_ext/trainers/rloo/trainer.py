"""Train a policy by RLOO, REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740).

Differences from `trl.RLOOTrainer` (1.16) are those of `trl_ext.trainers.ppo.trainer`, which does the work. Completions that are
left out of the loss (truncated ones, those without a score) are terms of TRL's loss that have no gradient, and here are 0.
"""

from typing import Any

from trl_ext.trainers.ppo.trainer import PPOTrainer
from trl_ext.trainers.rloo.config import RLOOConfig
from trl_ext.trainers.rollout import checks


class RLOOTrainer(PPOTrainer):
    """RLOO, constructed like `trl.RLOOTrainer`."""

    _name = "RLOO"
    _tag_names = ["trl", "trl-ext", "rloo"]  # noqa: RUF012
    _paper = {  # noqa: RUF012
        "title": "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in LLMs",
        "id": "2402.14740",
        "citation": "@inproceedings{ahmadian2024back,\n"
        "    title     = {{Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in LLMs}},\n"
        "    author    = {Arash Ahmadian and Chris Cremer and Matthias Gall{\\'{e}} and Marzieh Fadaee and Julia Kreutzer and "
        'Olivier Pietquin and Ahmet {\\"{U}}st{\\"{u}}n and Sara Hooker},\n'
        "    year      = 2024,\n"
        "    booktitle = {ACL},\n"
        "}",
    }

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: RLOOConfig | None = None, *given: Any, **named: Any
    ) -> None:
        """As `PPOTrainer`, whose other arguments these are.

        Raises:
            TypeError: `args` is of another class.
            ValueError: Settings that cannot work; raised before weights are loaded where possible.
        """
        args = args or RLOOConfig(output_dir="RLOO-output")
        checks.require(RLOOConfig, args, self)
        super().__init__(model, reward_funcs, args, *given, **named)
