"""`trl-ext merge`: merge an adapter into the original weights of its base model."""

import argparse
import dataclasses
import re
from pathlib import Path

from trl_ext.cli.merging import add_base, add_comparison, merge_into, new_folder, show, what_to_compare
from trl_ext.cli.recipe_keys import A_RECIPE, add_run_or_recipe
from trl_ext.cli.values import add_quiet, one_of
from trl_ext.support import encoding, terminal

HELP = "merge an adapter into the original 16-bit weights"
EXAMPLES = """examples:
  trl-ext merge runs/demo-dpo --output merged/demo
  trl-ext merge runs/demo-dpo/checkpoint-80 --output merged/demo-80 --no_check
  trl-ext merge my-adapter --output merged/mine --base Qwen/Qwen3-8B --dtype bfloat16

RUN is the directory of a run, one of its checkpoints, or a folder with an adapter that PEFT saved. For a recipe its latest finished run is used.
The merged model loads with transformers and vLLM; `trl-ext export` writes GGUF for llama.cpp and Ollama (docs/export.md). The sum is computed in float32 and rounded once. If RUN has a recipe, the merged model is then compared with the trained one on held-out data.

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
    add_base(parser)
    parser.add_argument(
        "--shard_size", type=_size, default="5GB", metavar="SIZE", help="largest weight file (default: 5GB)"
    )
    add_comparison(parser, "merge without the comparison")
    add_quiet(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*\s*[KMGT]?B", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"is {text!r}: give a whole number and a unit, for instance 5GB.")
    return text


def run(args: argparse.Namespace) -> int:
    new_folder(args.output)
    from trl_ext.export import source as sources
    from trl_ext.runs import libraries

    source = sources.find(args.run, args.base)
    libraries.configure(source.settings)

    console = terminal.console(quiet=args.json)
    sources.check_base(source)

    from trl_ext.export import card, commands, merging
    from trl_ext.support import atomic

    processor = merging.processor_of(source)
    why_not, data = what_to_compare(source, processor, args.pairs, skip=args.no_check)
    if why_not:
        console.print(f"The merged model will not be compared: {why_not}", markup=False)
    console.print(f"merging {source.folder} into {source.base} …", markup=False)
    dtype, size = merge_into(args.output, source, processor, args.dtype, args.shard_size)
    console.print(f"merged   {args.output}  ({dtype}, {size / 1e9:.2g} GB)", markup=False)

    fidelity = None
    if data is not None:
        from trl_ext.export import fidelity as measuring

        console.print(f"comparing on {data.what} …")
        fidelity = measuring.measure(source, args.output, data)
        atomic.write_text(args.output / "README.md", card.render(source, args.output, dtype, fidelity))
        show(console, fidelity, dtype)
    next_steps = commands.after(source, args.output)
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
