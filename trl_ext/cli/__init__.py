"""The command line: one verb per file, each importing what is heavy only when it runs.

A verb's module defines `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`. Exit codes: 0;
2 for something the user can fix; 130 for Ctrl-C; 1, with a traceback, for a mistake of ours.
"""

import os
import sys

import trl_ext
from trl_ext.cli import cache, chat, compare, data, doctor, eval, kl, losses, merge, plan, run, validate
from trl_ext.cli.arguments import Parser, did_you_mean, help_wanted
from trl_ext.runs.signals import EXIT_CODE
from trl_ext.support.errors import UserError

VERBS = {
    "run": run,
    "validate": validate,
    "data": data,
    "losses": losses,
    "plan": plan,
    "compare": compare,
    "chat": chat,
    "eval": eval,
    "merge": merge,
    "kl": kl,
    "cache": cache,
    "doctor": doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The words after `trl-ext`; those of the process if not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"trl-ext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":  # once, however many processes there are
            print(f"\ntrl-ext: interrupted. {error}".rstrip(), file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        # The reader (`| head`) has seen enough: keep the interpreter from complaining while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    parser, by_verb = _parsers()
    verb, *rest = words or ["--help"]
    if verb in by_verb and help_wanted(rest):
        by_verb[verb].print_help()
        return 0
    if verb in ("-h", "--help"):
        parser.print_help()
        return 0
    if verb == "--version":
        print(f"trl-ext {trl_ext.__version__}")
        return 0
    if verb not in by_verb:
        raise UserError(did_you_mean(verb, rest, tuple(VERBS)))
    return VERBS[verb].run(by_verb[verb].parse_args(rest))


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="trl-ext",
        description="Align a language model on one GPU: write a recipe, run it, swap the loss by a flag.",
        epilog="trl-ext VERB --help says more about one of them.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    by_verb = {}
    for name, module in VERBS.items():
        by_verb[name] = verbs.add_parser(name, help=module.HELP, description=module.HELP, epilog=module.EXAMPLES)
        module.add_arguments(by_verb[name])
    return parser, by_verb
