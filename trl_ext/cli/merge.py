"""`trl-ext merge`: merge an adapter into the original weights of its base model."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from trl_ext.cli.recipe_keys import A_RECIPE, add_run_or_recipe
from trl_ext.cli.values import add_quiet, one_of, whole_number, writable_folder
from trl_ext.support import encoding, terminal
from trl_ext.support.errors import UserError

HELP = "merge an adapter into the original 16-bit weights"
EXAMPLES = """examples:
  trl-ext merge runs/demo-dpo --output merged/demo
  trl-ext merge runs/demo-dpo/checkpoint-80 --output merged/demo-80 --no_check
  trl-ext merge my-adapter --output merged/mine --base Qwen/Qwen3-8B --dtype bfloat16

RUN is the directory of a run, one of its checkpoints, or a folder with an adapter that PEFT saved. For a recipe its latest finished run is used.
The merged model loads with transformers, vLLM and llama.cpp (docs/export.md). The sum is computed in float32 and rounded once. If RUN has a recipe, the merged model is then compared with the trained one on held-out data.

exit code: 0 on success, 2 on a user error"""

DTYPES = ("bfloat16", "float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN|RECIPE --output DIR [options]"
    add_run_or_recipe(parser, f"directory of a run or adapter, or {A_RECIPE}")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="new folder for the merged model")
    parser.add_argument(
        "--dtype",
        type=one_of(*DTYPES),
        metavar="DTYPE",
        help=f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]} (default: the dtype of the base model)",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="base model to merge into (default: the one the adapter was trained on)"
    )
    parser.add_argument(
        "--shard_size", type=_size, default="5GB", metavar="SIZE", help="largest weight file (default: 5GB)"
    )
    parser.add_argument(
        "--pairs",
        metavar="ROWS",
        type=whole_number(1, "Or skip the comparison with `--no_check`."),
        default=64,
        help="held-out rows to compare on (default: 64)",
    )
    parser.add_argument("--no_check", action="store_true", help="merge without the comparison")
    add_quiet(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*\s*[KMGT]?B", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"is {text!r}: give a whole number and a unit, for instance 5GB.")
    return text


def run(args: argparse.Namespace) -> int:
    _check(args)
    from trl_ext.export import source as sources
    from trl_ext.runs import libraries

    source = sources.find(args.run, args.base)
    libraries.configure(source.settings)

    console = terminal.console(quiet=args.json)
    sources.check_base(source)

    from trl_ext.export import card, commands, merging
    from trl_ext.support import atomic

    processor = merging.processor_of(source)
    why_not, data = _what_to_compare(source, processor, args)
    if why_not:
        console.print(f"The merged model will not be compared: {why_not}", markup=False)
    console.print(f"merging {source.folder} into {source.base} …", markup=False)
    dtype, size = _merge(source, processor, args)
    console.print(f"merged   {args.output}  ({dtype}, {size / 1e9:.2g} GB)", markup=False)

    fidelity = None
    if data is not None:
        from trl_ext.export import fidelity as measuring

        console.print(f"comparing on {data.what} …")
        fidelity = measuring.measure(source, args.output, data)
        atomic.write_text(args.output / "README.md", card.render(source, args.output, dtype, fidelity))
        _show(console, fidelity, dtype)
    next_steps = commands.after(source, args.output, dtype)
    lines = [f"{purpose:17} {command}" for purpose, command in next_steps.items()]
    console.print("", *lines, sep="\n", markup=False, soft_wrap=True)  # commands are copied
    if args.json:
        facts = {
            "output": str(args.output),
            "base": source.base,
            "adapter": str(source.folder),
            "dtype": dtype,
            "bytes": size,
            "fidelity": None if fidelity is None else dataclasses.asdict(fidelity),
            "commands": next_steps,
        }
        print(encoding.as_json(facts, indent=2))
    return 0


def _merge(source: Any, processor: Any, args: argparse.Namespace) -> tuple[str, int]:
    """Write the merged model and its card, and free its memory. Returns its dtype and the bytes of its weights."""
    import torch

    from trl_ext.export import card, merging

    model = merging.merge(source, getattr(torch, args.dtype) if args.dtype else None)
    dtype, size = str(model.dtype).removeprefix("torch."), merging.bytes_of(model)
    with merging.staged(args.output, size) as folder:
        merging.save(model, processor, folder, args.shard_size)
        (folder / "README.md").write_text(card.render(source, args.output, dtype, None), encoding="utf-8")
    return dtype, size


def _check(args: argparse.Namespace) -> None:
    """Check the output folder before the model is loaded."""
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"`--output` is {args.output}, which exists and is not empty. Name a new folder.")
    writable_folder("output", args.output)


def _what_to_compare(source: Any, processor: Any, args: argparse.Namespace) -> tuple[str, Any]:
    """The reason for no comparison, or the data to compare on. Called before the merge, which may take long."""
    if args.no_check:
        return "", None
    if source.is_classifier:
        return "a reward model writes no completions.", None
    if source.recipe is None:
        return source.why_no_recipe, None
    from trl_ext.export import held_out

    try:
        return "", held_out.of_run(source, getattr(processor, "tokenizer", processor), args.pairs)
    except UserError as error:
        return str(error), None


def _show(console: Any, fidelity: Any, dtype: str) -> None:
    from trl_ext.export import verdict

    table = terminal.table(*verdict.HEADINGS)
    for row in verdict.rows(fidelity, dtype):
        table.add_row(*row)
    console.print(table)
    console.print(f"[bold]{verdict.in_words(fidelity, dtype)}[/bold]")
    console.print(
        f"Measured on {fidelity.tokens:,} tokens; all models compute in {fidelity.dtype}. KL over the whole vocabulary and "
        "largest difference of log-probabilities, both in nats.",
        style="dim",
    )
