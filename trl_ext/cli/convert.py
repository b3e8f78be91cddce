"""`trl-ext convert`: write the file of another program, or of an older TRL, as a recipe."""

import argparse
import sys
from pathlib import Path

from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "write a YAML file of TRL, the alignment handbook, SimPO, LLaMA-Factory or axolotl as a recipe"
EXAMPLES = """examples:
  trl-ext convert config_qlora.yaml --trainer dpo --output my.yaml
  trl-ext convert llama3_lora_kto.yaml > my.yaml
  trl-ext convert qlora.yml --output my.yaml && trl-ext run my.yaml

Comments say which settings changed their meaning, and why. A list at the end has the keys without a counterpart. The recipe is then checked as by `trl-ext validate`. Without `--output` it is printed.

exit code: 0 if the recipe is valid, 2 with a list of problems if it needs a decision, or on a user error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s FILE [options]"
    parser.add_argument("file", metavar="FILE", type=Path, help="a YAML file")
    parser.add_argument(
        "--trainer",
        metavar="NAME",
        help="what the file is for, if it does not say it: dpo, kto, orpo, sft, reward, ...",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="the recipe (default: print it)")
    parser.add_argument("--overwrite", action="store_true", help="overwrite the file that `--output` names")


def run(args: argparse.Namespace) -> int:
    from trl_ext.drafting import converted
    from trl_ext.support import atomic

    if args.output is not None:
        _check_output(args)
    made = converted.convert_file(args.file, args.trainer)
    if args.output is None:
        print(made.text, end="")
    else:
        atomic.write_text(args.output, made.text)
    where = args.output or args.file
    if made.problems:
        raise UserError(made.problems, about=f"the recipe for {args.file}" if args.output is None else str(where))
    if args.output is not None:
        print(terminal.wrap(f"Wrote {args.output}. Train with `trl-ext run {args.output}`."))
    for note in made.notes:
        print(terminal.wrap(f"Note: {note}", sys.stderr), file=sys.stderr)
    return 0


def _check_output(args: argparse.Namespace) -> None:
    from trl_ext.cli.values import writable_folder

    if args.output.exists() and (args.output.is_dir() or not args.overwrite):
        raise UserError(
            f"{args.output} exists. Choose another file with `--output FILE`, or add `--overwrite`."
            if not args.output.is_dir()
            else f"{args.output} is a folder. Name a file with `--output FILE`."
        )
    writable_folder("output", args.output.parent)
