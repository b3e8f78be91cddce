"""`trl-ext export`: write GGUF files of a run for llama.cpp and Ollama, and measure them."""

import argparse
import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.cli.merging import add_base, add_comparison, merge_into, new_folder, show, what_to_compare
from trl_ext.cli.recipe_keys import A_RECIPE, add_run_or_recipe
from trl_ext.cli.values import add_quiet
from trl_ext.support import encoding, terminal
from trl_ext.support.counts import size_of
from trl_ext.support.errors import UserError

HELP = "write GGUF files for llama.cpp and Ollama, and measure them"
EXAMPLES = """examples:
  trl-ext export runs/demo-dpo --gguf Q8_0 --llama_cpp llama.cpp
  trl-ext export runs/my-dpo --gguf Q4_K_M,Q8_0 --output my-model
  trl-ext export runs/my-dpo --gguf_lora

RUN is the directory of a run, one of its checkpoints, or a folder with an adapter that PEFT saved or with a complete 16-bit model. For a recipe its latest finished run is used.
The adapter is merged, and the merged model is converted by llama.cpp and quantised. A complete model is converted as it is. Each file is compared with the merged 16-bit model and with the model that was trained, on held-out data. A Modelfile for Ollama has the chat template, stop tokens and sampling settings (docs/export.md). Needs llama.cpp's converters and the packages of `pip install 'trl-ext[gguf]'`.

exit code: 0 on success, also if only the comparison failed; 2 on a user error"""

FOLDER = "gguf"
"""Folder of the files inside the run's directory."""

RECORD = "export.json"

VARIABLES = "chat_template_kwargs"
"""Key of a recipe: variables of the chat template."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN|RECIPE [--gguf TYPES] [--gguf_lora] [options]"
    add_run_or_recipe(parser, f"directory of a run, adapter or complete model, or {A_RECIPE}")
    parser.add_argument(
        "--gguf",
        type=_types,
        action="extend",
        metavar="TYPES",
        help="types separated by commas: Q4_K_M,Q8_0. The Modelfile uses the first",
    )
    parser.add_argument("--gguf_lora", action="store_true", help="write the adapter alone as a GGUF file, too")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"new folder for the files (default: {FOLDER} in the run's directory)",
    )
    parser.add_argument("--merged", metavar="DIR", type=Path, help="new folder in which to keep the merged model")
    parser.add_argument(
        "--llama_cpp",
        metavar="DIR",
        help="folder of llama.cpp (default: the variable LLAMA_CPP, else programs on PATH)",
    )
    add_base(parser)
    add_comparison(parser, "compare neither prompts nor models")
    parser.add_argument(
        "--push_to_hub",
        action="store_true",
        help="upload adapter, card, recipe and the files to the Hub (default: `push_to_hub` of the recipe)",
    )
    add_quiet(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _types(text: str) -> list[str]:
    from trl_ext.export.gguf import quantising

    try:
        return quantising.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    if not args.gguf and not args.gguf_lora:
        raise UserError(
            "There is nothing to export. Add `--gguf Q4_K_M,Q8_0`, or `--gguf_lora` for the adapter alone."
        )
    args.gguf = list(dict.fromkeys(args.gguf or ()))
    if args.merged is not None and not args.gguf:
        raise UserError(
            "`--merged` keeps the merged model, and `--gguf_lora` alone merges nothing. Add `--gguf`, or remove it."
        )
    from trl_ext.export import source as sources
    from trl_ext.export.gguf import tools as programs
    from trl_ext.runs import libraries

    tools = programs.find(args.llama_cpp, needs_lora=args.gguf_lora)
    source = sources.find_for_export(args.run, args.base)
    if source.is_whole:
        _refuse_for_whole(args, source)
    output = args.output or source.folder / FOLDER
    if args.output is None and output.exists():
        raise UserError(f"{output} holds an earlier export. Remove it, or name a new folder with `--output`.")
    new_folder(output)
    if args.merged is not None:
        new_folder(args.merged, "merged")
        if _are_nested(args.merged.resolve(), output.resolve()):
            raise UserError(
                f"`--merged` is {args.merged}, and the files go to {output}. Name folders that do not hold each other."
            )
    if source.is_classifier:
        raise UserError(f"{source.folder} is a reward model. Only models that write text are exported to GGUF.")
    uploads = _uploads(args, source)
    libraries.configure(source.settings)

    console = terminal.console(quiet=args.json)
    if not source.is_whole:
        sources.check_base(source)
    facts = _export(args, source, tools, output, console)
    if uploads:
        from trl_ext.runs import hub

        facts["repository"] = hub.upload_export(source.recipe, source.folder, output)
        console.print(f"uploaded to {facts['repository']}", markup=False)
    if args.json:
        print(encoding.as_json(facts, indent=2))
    return 0


def _refuse_for_whole(args: argparse.Namespace, source: Any) -> None:
    """Refuse flags that a complete model has no use for."""
    if args.gguf_lora:
        raise UserError(
            f"`--gguf_lora` writes an adapter, but {source.folder} holds a complete model and no adapter. Give `--gguf Q4_K_M,Q8_0` alone."
        )
    if args.merged is not None:
        raise UserError(
            f"`--merged` keeps a merged model, but nothing is merged: {source.folder} is complete. Remove it."
        )


def _are_nested(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _uploads(args: argparse.Namespace, source: Any) -> bool:
    """Whether the files are uploaded. Asked for by the flag, it needs a run."""
    if args.push_to_hub and source.recipe is None:
        raise UserError(
            f"`--push_to_hub` uploads a run, but {source.why_no_recipe} Upload the files with `hf upload`."
        )
    return args.push_to_hub or bool(source.recipe and source.recipe.get("push_to_hub"))


def _export(args: argparse.Namespace, source: Any, tools: Any, output: Path, console: Any) -> dict[str, Any]:
    """Write all files into the output folder, which appears when they are complete. Returns what `--json` prints."""
    from trl_ext.export import commands, merging
    from trl_ext.export.gguf import adapter
    from trl_ext.runs import finished

    name = _name(source.folder.resolve())
    of = {"model": str(source.folder)} if source.is_whole else {"adapter": str(source.folder), "base": source.base}
    facts: dict[str, Any] = {"output": str(output), **of}
    with merging.staged(output, 0) as folder, _removed_on_failure(args.merged):
        if args.gguf_lora:
            facts["lora"] = adapter.write(source, folder, name, tools.lora_converter).name
            console.print(f"wrote    {output / facts['lora']}", markup=False)
        if args.gguf:
            facts |= _models(args, source, tools, folder, name, console)
        (folder / RECORD).write_text(encoding.as_json(facts, indent=2) + "\n", encoding="utf-8")
    variables = finished.written(source.folder).get(VARIABLES) if finished.is_of_run(source.folder) else None
    made = (facts.get(kind) for kind in ("modelfile", "files", "lora"))
    facts["commands"] = commands.of_gguf(output, name, *made, variables)
    lines = [f"{purpose:17} {command}" for purpose, command in facts["commands"].items()]
    console.print("", *lines, sep="\n", markup=False, soft_wrap=True)  # commands are copied
    return facts


@contextlib.contextmanager
def _removed_on_failure(merged: Path | None) -> Iterator[None]:
    """Remove the folder of the merged model, a new one, if the export fails or is stopped, so that it can be repeated."""
    try:
        yield
    except BaseException:
        if merged is not None:
            shutil.rmtree(merged, ignore_errors=True)
        raise


def _name(folder: Path) -> str:
    """Name of the exported model: that of the folder; a checkpoint's begins with the name of its run."""
    from trl_ext.runs import finished

    return (
        "-".join(folder.relative_to(finished.home(folder).parent).parts) if finished.is_of_run(folder) else folder.name
    )


def _models(
    args: argparse.Namespace, source: Any, tools: Any, folder: Path, name: str, console: Any
) -> dict[str, Any]:
    """Merge, convert, quantise and measure."""
    from transformers import GenerationConfig

    from trl_ext.export import merging
    from trl_ext.export.gguf import served

    checks = not args.no_check
    processor = merging.processor_of(source)
    form = served.format_of(source, processor, tools, checks=checks)
    for note in form.notes:
        console.print(note, markup=False)
    why_not, data = what_to_compare(source, processor, args.pairs, skip=args.no_check)
    if why_not:
        console.print(f"The files will not be compared: {why_not}", markup=False)
    merged = source.folder if source.is_whole else args.merged or folder.with_name(f"{folder.name}-merged")
    dtype = _merged(source, merged, processor, console)
    console.print(f"converting and quantising to {', '.join(args.gguf)} …", markup=False)
    files = served.make(merged, folder, name, args.gguf, form, tools, dtype=dtype, checks=checks)
    facts: dict[str, Any] = {
        "fidelity": None,
        "prompts_compared": form.compared,
        "modelfile": None,
        "notes": form.notes,
    }
    if data is not None:
        compared = [served.to_compare(file, name) for file in files]
        try:
            facts["fidelity"] = _measure(source, merged, data, compared, dtype, console)
        except UserError as error:  # the files are complete
            facts["notes"] = [*form.notes, f"The files were written, but they could not be compared: {error}"]
            console.print(facts["notes"][-1], markup=False)
    if files[0].stem.removeprefix(f"{name}-") not in args.gguf:
        files.pop(0).unlink()  # the others were made of it
    if form.writes_modelfile:
        config = GenerationConfig.from_pretrained(merged)
        served.write_modelfile(folder, f"{name}-{args.gguf[0]}.gguf", form, config)
        facts["modelfile"] = served.MODELFILE
    facts["files"] = {file.name: file.stat().st_size for file in files}
    for file, size in facts["files"].items():
        console.print(f"wrote    {file}  ({size_of(size)})", markup=False)
    return facts


def _measure(source: Any, merged: Path, data: Any, files: list[Any], dtype: str, console: Any) -> dict[str, Any]:
    from trl_ext.export import fidelity as measuring
    from trl_ext.export import gguf_card

    console.print(f"comparing on {data.what} …")
    if source.is_whole:
        found = measuring.measure_files(source, data, files)
    else:
        found = measuring.measure(source, merged, data, files)
    show(console, found, dtype)
    gguf_card.put(source.folder, found, dtype)
    return dataclasses.asdict(found)


def _merged(source: Any, merged: Path, processor: Any, console: Any) -> str:
    """Merge, unless the model is complete. Returns the dtype of the weights."""
    if source.is_whole:
        from transformers import AutoConfig

        dtype = AutoConfig.from_pretrained(source.folder, trust_remote_code=source.trust_remote_code).dtype
        return str(dtype or "float32").removeprefix("torch.")
    console.print(f"merging {source.folder} into {source.base} …", markup=False)
    dtype, _ = merge_into(merged, source, processor, None, "5GB")
    return dtype
