"""The command line: one verb per file. Heavy libraries are imported only by a verb that runs.

A verb's module defines `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`. Exit codes: 0 on success,
2 on a user error, 130 on Ctrl-C or another signal that ends the process, 1 with a traceback for a bug in trl-ext.
"""

import os
import sys

import trl_ext
from trl_ext.cli import (
    advantages,
    cache,
    chat,
    compare,
    completion,
    convert,
    data,
    doctor,
    eval,
    export,
    init,
    kl,
    losses,
    merge,
    pairs,
    plan,
    recipes,
    run,
    search,
    validate,
)
from trl_ext.cli.parser import Parser
from trl_ext.support import encoding, messages, terminal, termination
from trl_ext.support.errors import UserError
from trl_ext.support.terminal import wrap

VERBS = {
    "init": init,
    "convert": convert,
    "run": run,
    "validate": validate,
    "data": data,
    "recipes": recipes,
    "losses": losses,
    "advantages": advantages,
    "plan": plan,
    "compare": compare,
    "search": search,
    "pairs": pairs,
    "chat": chat,
    "eval": eval,
    "merge": merge,
    "export": export,
    "kl": kl,
    "cache": cache,
    "doctor": doctor,
    "completion": completion,
}

TRAINING = (["run"], ["compare"], ["search"])
"""The verbs that train. The others never compile a function."""

OTHER_NAMES = {
    "init": ("new", "create", "setup", "start", "quickstart"),
    "convert": ("import", "migrate", "translate"),
    "run": ("train", "finetune", "fine-tune", "fit", "resume", "dpo", "ppo", "sft"),
    "validate": ("check", "lint"),
    "data": ("dataset", "inspect"),
    "losses": ("loss", "objectives"),
    "advantages": ("advantage", "baselines", "estimators"),
    "plan": ("memory", "estimate", "vram"),
    "compare": ("grid", "benchmark"),
    "search": ("sweep", "tune", "optuna", "hpo", "hyperparameters", "optimize"),
    "chat": ("generate", "talk", "infer", "inference"),
    "eval": ("evaluate", "evaluation", "test", "score"),
    "pairs": ("sample", "samples", "rollout", "on-policy", "generate-pairs"),
    "merge": ("save",),
    "export": ("gguf", "ollama", "llama.cpp", "quantize", "quantise"),
    "cache": ("clear", "clean"),
    "doctor": ("env", "environment", "info", "diagnose"),
}
"""Names that other programs use for the verbs, for "did you mean"."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The words after `trl-ext`; those of the process if not given.
    """
    encoding.write_every_character()
    _print_lines_at_once()
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words[:1] not in TRAINING:
        # torch's switch for `torch.compile`. bitsandbytes compiles functions as it is imported, of which only optimizers
        # call any on a CPU and none runs on a GPU; that took a sixth of the time to import torch, transformers and PEFT.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if argv is None:
        termination.end_as_on_ctrl_c()
    try:
        if "_ARGCOMPLETE" in os.environ:
            completion.answer(*parsers())
        return _dispatch(words)
    except UserError as error:
        print(wrap(f"trl-ext: {error}", sys.stderr), file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":  # once, however many processes there are
            print(wrap(f"\ntrl-ext: interrupted. {error}".rstrip(), sys.stderr), file=sys.stderr)
        return termination.EXIT_CODE
    except BrokenPipeError:
        # The reader (`| head`) has seen enough: keep the interpreter from complaining while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_lines_at_once() -> None:
    """Into a file or a pipe, too, so that a command that is killed leaves what it said."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in notebooks
            stream.reconfigure(line_buffering=True)


def _dispatch(words: list[str]) -> int:
    verb, *rest = words or ["help"]
    if verb in ("version", "--version"):
        print(f"trl-ext {trl_ext.__version__}")
        return 0
    asks_for_help = {"-h", "--help"}.intersection(words)
    if verb in ("help", "-h", "--help"):
        verb = next((word for word in rest if not word.startswith("-")), None)
        asks_for_help = True
    parser, by_verb = parsers()
    if verb is not None and verb not in by_verb:
        raise UserError(_no_verb(verb, rest))
    if asks_for_help:
        by_verb.get(verb, parser).print_help()
        return 0
    args = by_verb[verb].parse(rest)
    with terminal.quiet(getattr(args, "quiet", False)):
        return VERBS[verb].run(args)


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of `trl-ext` itself, and that of each verb."""
    parser = Parser(
        prog="trl-ext",
        usage="%(prog)s VERB ...",
        description="Train a language model on preferences or rewards on one GPU, as a recipe (a YAML file) describes.",
        epilog="`trl-ext help VERB` shows the arguments of a verb. `trl-ext version` prints the version.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    by_verb = {}
    for name, module in VERBS.items():
        by_verb[name] = verbs.add_parser(
            name,
            prog=f"trl-ext {name}",
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog=module.EXAMPLES,
        )
        module.add_arguments(by_verb[name])
    return parser, by_verb


def _no_verb(word: str, rest: list[str]) -> str:
    """A sentence about a first word that is not a verb."""
    from trl_ext.recipe import names

    if word.endswith(names.ENDINGS) or word in names.shipped():
        return f"{word} is a recipe, and a verb comes first: `trl-ext run {' '.join([word, *rest])}`, for instance."
    if word.startswith("-"):
        return f"{word} comes too early: a verb goes first, then the recipe, then the flags."
    verb_of = {name: verb for verb in VERBS for name in (verb, *OTHER_NAMES.get(verb, ()))}
    near = [word] if word in verb_of else messages.nearest(word, verb_of)
    meant = dict.fromkeys(verb_of[name] for name in near)
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"allowed are {', '.join(sorted(VERBS))}."
    return f"There is no verb {word!r}: {hint}"
