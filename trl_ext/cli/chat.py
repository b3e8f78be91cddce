"""`trl-ext chat`: chat with a trained model, and with its base model for comparison."""

import argparse
import contextlib
import math
import sys

from trl_ext.cli.recipe_keys import add_run_or_recipe
from trl_ext.cli.values import number, text, whole_number
from trl_ext.support.errors import UserError

HELP = "chat with a trained model and its base model"
EXAMPLES = """examples:
  trl-ext chat runs/demo-dpo
  trl-ext chat runs/demo-dpo --compare
  trl-ext chat runs/demo-dpo --prompt "How was the hotel in Rome?"
  trl-ext chat runs/demo-dpo --json < questions.txt

RUN is the directory of a run, one of its checkpoints, or a folder with an adapter that PEFT saved or with a model. For a recipe its latest finished run is used. Each line from standard input is a conversation of its own.

exit code: 0 on success, 2 on a user error, 130 on Ctrl-C"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN|RECIPE [options]"
    add_run_or_recipe(parser)
    parser.add_argument("--compare", action="store_true", help="also show the answers of the base model")
    parser.add_argument("--prompt", type=text, metavar="TEXT", help="answer this prompt and exit")
    parser.add_argument("--system", type=text, metavar="TEXT", help="system message of the conversation")
    parser.add_argument(
        "--temperature",
        type=number("a number of at least 0", lambda value: 0 <= value < math.inf),
        metavar="T",
        help="sampling temperature, 0 for greedy decoding (default: the model's generation config, or 1)",
    )
    parser.add_argument(
        "--max_new_tokens",
        type=whole_number(1),
        default=512,
        metavar="TOKENS",
        help="largest number of tokens per answer (default: 512)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="seed of the sampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per answer")


def run(args: argparse.Namespace) -> int:
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("`--prompt` is empty. Write a question.")
    from trl_ext.chat.echo import without_echo
    from trl_ext.runs import finished
    from trl_ext.runs.load import open_model

    directory = finished.directory_of(args.run)
    is_typed = args.prompt is None and not args.json and sys.stdin.isatty() and sys.stdout.isatty()
    with without_echo() if is_typed else contextlib.nullcontext():
        opened = open_model(directory, needs_reference=args.compare)  # configures the libraries imported next
        if args.compare:
            opened.add_reference()
        from trl_ext.chat import screen, session
        from trl_ext.chat.answer import Settings

    settings = Settings(args.temperature, args.max_new_tokens, args.seed)
    if is_typed:
        session.typed(opened, settings, args.system, is_compared=args.compare)
        return 0
    show = screen.as_json if args.json else screen.written
    if args.compare and not args.json:
        show = screen.after_its_question(screen.best())
    questions = sys.stdin if args.prompt is None else [args.prompt]
    session.piped(opened, settings, args.system, questions, show, is_compared=args.compare)
    return 0
