"""`trl-ext run`: its arguments. The work is in `trl_ext.run`, which loads the heavy libraries."""

import argparse

from trl_ext.cli.arguments import add_recipe, overrides
from trl_ext.errors import UserError

HELP = "train as a recipe says"
EXAMPLES = """examples:
  trl-ext run recipes/demo.yaml
  trl-ext run recipes/demo.yaml --loss ipo
  trl-ext run recipes/demo-ppo.yaml
  trl-ext run recipes/demo.yaml --loss '{dpo: 1, sft: 0.1}' --learning_rate 5e-6
  trl-ext run my.yaml --force                     try what does not fit this machine's memory
  accelerate launch --multi_gpu --num_processes 2 -m trl_ext run recipes/demo.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)


def run(args: argparse.Namespace) -> int:
    values = overrides(args.overrides)
    force = values.pop("force", False)
    if not isinstance(force, bool):
        raise UserError(f"`--force` is {force!r}: give it alone; it takes no value.")
    from trl_ext import run as job
    from trl_ext.interruption import guard

    with guard:
        return job.main(args.recipe, values, force=force)
