"""`trl-ext merge`: a run's adapter in the original weights of its base, as a model that any program loads."""

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from trl_ext.cli.arguments import writable_folder
from trl_ext.support import terminal
from trl_ext.support.errors import UserError

HELP = "merge an adapter into the original 16-bit weights, and measure what that changes"
EXAMPLES = """examples:
  trl-ext merge runs/demo-dpo --output merged/demo
  trl-ext merge runs/demo-dpo/checkpoint-80 --output merged/demo-80 --no_check
  trl-ext merge my-adapter --output merged/mine --base Qwen/Qwen3-8B --dtype bfloat16

The merged model loads with transformers, vLLM and llama.cpp; docs/export.md tells how. Rounding happens once, after a
sum in float32. Of a run, the trained model and the merged one are then compared on data that was held out."""

DTYPES = ("bfloat16", "float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        help="a run's directory, one of its checkpoints, a folder PEFT saved an adapter in, or a recipe that was run",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a new folder for the merged model")
    parser.add_argument("--dtype", choices=DTYPES, help="of the merged weights (default: the base's own)")
    parser.add_argument("--base", metavar="MODEL", help="merge into this one (default: the base the adapter names)")
    parser.add_argument("--shard_size", default="5GB", help="largest file of weights (default 5GB)")
    parser.add_argument("--pairs", metavar="N", type=int, default=64, help="held-out rows to compare on (default 64)")
    parser.add_argument("--no_check", action="store_true", help="merge without comparing")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def run(args: argparse.Namespace) -> int:
    _check(args)
    from trl_ext.export import source as sources
    from trl_ext.runs.run import quieten

    source = sources.find(args.run, args.base)
    quieten(source.settings)

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, quiet=args.json)
    sources.check_base(source)

    from trl_ext.export import card, commands, merging
    from trl_ext.support import atomic

    processor = merging.processor_of(source)
    why_not, data = _what_to_compare(source, processor, args)
    if why_not:
        console.print(f"Nothing will be compared: {why_not}", markup=False)
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
    console.print("", *lines, sep="\n", markup=False)
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
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    return 0


def _merge(source: Any, processor: Any, args: argparse.Namespace) -> tuple[str, int]:
    """Write the merged model with its card; its dtype and bytes of weights. Nothing of it stays in memory."""
    import torch

    from trl_ext.export import card, merging

    model = merging.merge(source, getattr(torch, args.dtype) if args.dtype else None)
    dtype, size = str(model.dtype).removeprefix("torch."), merging.bytes_of(model)
    with merging.staged(args.output, size) as folder:
        merging.save(model, processor, folder, args.shard_size)
        (folder / "README.md").write_text(card.render(source, args.output, dtype, None), encoding="utf-8")
    return dtype, size


def _check(args: argparse.Namespace) -> None:
    """What is wrong with the flags, before anything is loaded."""
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"`--output` is {args.output}, which is there already and not empty: name a new folder.")
    writable_folder("output", args.output)
    if args.pairs < 1:
        raise UserError(f"`--pairs` is {args.pairs}: give a number from 1 up, or `--no_check`.")
    if not re.fullmatch(r"[1-9]\d*\s*[KMGT]?B", args.shard_size, re.IGNORECASE):
        raise UserError(f"`--shard_size` is {args.shard_size!r}: give a whole number with its unit, 5GB for instance.")


def _what_to_compare(source: Any, processor: Any, args: argparse.Namespace) -> tuple[str, Any]:
    """Why nothing is compared, or the data to compare on; found before the merge, which may take long."""
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
        f"{fidelity.tokens:,} tokens, all models computing in {fidelity.dtype}. KL over the whole vocabulary and largest "
        "differences of log-probabilities, in nats.",
        style="dim",
    )
