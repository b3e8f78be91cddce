"""`trl-ext chat`: talk to what a run trained, and to what it was before."""

import argparse
import contextlib
import sys
from pathlib import Path

from trl_ext.support.errors import UserError

HELP = "talk to what a run trained, beside its base if wanted"
EXAMPLES = """examples:
  trl-ext chat runs/demo-dpo                          also a checkpoint, a merged model, or a recipe: its latest run
  trl-ext chat runs/demo-dpo --compare                the base answers too, with the adapter off
  trl-ext chat runs/demo-dpo --prompt "How was the hotel in Rome?"
  trl-ext chat runs/demo-dpo --json < questions.txt   one conversation and one line of JSON for each line

exit code: 0; 2 for something to put right; 130 if left by Ctrl-C"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN or RECIPE", type=Path, help="a run's directory, or a YAML file")
    parser.add_argument("--compare", action="store_true", help="answer with what the run began with, too")
    parser.add_argument("--prompt", metavar="TEXT", help="one question; print the answer and leave")
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0: the likeliest token (default: the model's own sampling, or 1)",
    )
    parser.add_argument("--max_new_tokens", type=int, default=512, metavar="N", help="of an answer, at most (512)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (0)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each answer")


def run(args: argparse.Namespace) -> int:
    _check(args)
    from trl_ext.cli.terminal import without_echo
    from trl_ext.runs import finished
    from trl_ext.runs.load import open_model

    directory = finished.directory_of(args.run)
    is_typed = args.prompt is None and not args.json and sys.stdin.isatty() and sys.stdout.isatty()
    with without_echo() if is_typed else contextlib.nullcontext():
        opened = open_model(directory, needs_reference=args.compare)  # quietens what is imported next
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


def _check(args: argparse.Namespace) -> None:
    if args.temperature is not None and not 0 <= args.temperature < float("inf"):
        raise UserError(f"`--temperature` is {args.temperature}: give a number from 0 up.")
    if args.max_new_tokens < 1:
        raise UserError(f"`--max_new_tokens` is {args.max_new_tokens}: give a number from 1 up.")
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("`--prompt` is empty: write a question.")
