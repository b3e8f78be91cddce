"""What `trl-ext merge` and `trl-ext export` share: flags, the merge itself, and the comparison with the trained model."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli.values import whole_number, writable_folder
from trl_ext.support import terminal
from trl_ext.support.errors import UserError


def add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="MODEL", help="base model to merge into (default: the one the adapter was trained on)"
    )


def add_comparison(parser: argparse.ArgumentParser, without: str) -> None:
    parser.add_argument(
        "--pairs",
        metavar="ROWS",
        type=whole_number(1, "Or skip the comparison with `--no_check`."),
        default=64,
        help="held-out rows to compare on (default: 64)",
    )
    parser.add_argument("--no_check", action="store_true", help=without)


def new_folder(folder: Path, flag: str = "output") -> None:
    """Check the folder that a flag names for a model, before the model is loaded.

    Raises:
        UserError: It exists and is not empty, or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"`--{flag}` is {folder}, which exists and is not empty. Name a new folder.")
    writable_folder(flag, folder)


def merge_into(output: Path, source: Any, processor: Any, dtype: str | None, shard_size: str) -> tuple[str, int]:
    """Write the merged model and its card, and free its memory. Returns its dtype and the bytes of its weights."""
    import torch

    from trl_ext.export import card, merging

    model = merging.merge(source, getattr(torch, dtype) if dtype else None)
    dtype, size = str(model.dtype).removeprefix("torch."), merging.bytes_of(model)
    with merging.staged(output, size) as folder:
        merging.save(model, processor, folder, shard_size)
        (folder / "README.md").write_text(card.render(source, output, dtype, None), encoding="utf-8")
    return dtype, size


def what_to_compare(source: Any, processor: Any, pairs: int, *, skip: bool) -> tuple[str, Any]:
    """The reason for no comparison, or the data to compare on. Called before the merge, which may take long."""
    if skip:
        return "", None
    if source.is_classifier:
        return "a reward model writes no completions.", None
    if source.recipe is None:
        return source.why_no_recipe, None
    from trl_ext.export import held_out

    try:
        return "", held_out.of_run(source, getattr(processor, "tokenizer", processor), pairs)
    except UserError as error:
        return str(error), None


def show(console: Any, fidelity: Any, dtype: str) -> None:
    from trl_ext.export import verdict

    table = terminal.table(*verdict.HEADINGS)
    for row in verdict.rows(fidelity, dtype):
        table.add_row(*row)
    console.print(table)
    console.print(f"[bold]{verdict.in_words(fidelity, dtype)}[/bold]")
    for file in fidelity.files:
        console.print(verdict.of_file(file, fidelity))
    if (far := verdict.far_files(fidelity)) is not None:
        console.print(f"[bold]{far}[/bold]")
    elsewhere = ", and files in llama.cpp" if fidelity.files else ""
    console.print(
        f"Measured on {fidelity.tokens:,} tokens; all models compute in {fidelity.dtype}{elsewhere}. KL over the whole vocabulary and "
        "largest difference of log-probabilities, both in nats.",
        style="dim",
    )
