"""`trl-ext run`: its arguments. The work is in `trl_ext.runs.run`, which loads the heavy libraries."""

import argparse

from trl_ext.cli.arguments import add_recipe, overrides
from trl_ext.support.errors import UserError

HELP = "train as a recipe says"
EXAMPLES = """examples:
  trl-ext run recipes/demo.yaml
  trl-ext run recipes/demo.yaml --loss ipo
  trl-ext run recipes/demo-ppo.yaml
  trl-ext run recipes/demo.yaml --loss '{dpo: 1, sft: 0.1}' --learning_rate 5e-6
  trl-ext run recipes/demo.yaml --output_dir runs/a --resume_from_checkpoint true
  accelerate launch --multi_gpu --num_processes 2 -m trl_ext run recipes/demo.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--loss", metavar="NAME", help="the loss, or '{NAME: WEIGHT, …}'; `trl-ext losses` lists them")
    parser.add_argument(
        "--output_dir", metavar="DIR", help="where the run goes (runs/<recipe>-<loss>, numbered if taken)"
    )
    parser.add_argument(
        "--resume_from_checkpoint",
        metavar="true|DIR",
        help="go on from the last checkpoint of --output_dir, or without it of the recipe's latest run; or from this one",
    )
    parser.add_argument(
        "--resume_changed", action="store_true", help="go on although settings differ from the checkpoint's"
    )
    parser.add_argument(
        "--force", action="store_true", help="try what by the plan does not fit the memory of this machine"
    )


def run(args: argparse.Namespace) -> int:
    values = overrides(args.overrides)
    force = values.pop("force", False)
    if not isinstance(force, bool):
        raise UserError(f"`--force` is {force!r}: give it alone; it takes no value.")
    from trl_ext.runs import run as job
    from trl_ext.runs.signals import guard

    with guard:
        return job.main(args.recipe, values, force=force)
