"""`trl-ext data`: show the training data of a recipe as its trainer sees it."""

import argparse
from pathlib import Path
from typing import Any

from trl_ext.cli.recipe_keys import add_recipe
from trl_ext.cli.values import whole_number, writable_folder
from trl_ext.support import encoding, terminal
from trl_ext.support.counts import count

HELP = "show the training data as the trainer sees it"
EXAMPLES = """examples:
  trl-ext data demo
  trl-ext data qwen3-8b-kto --max_length 512 --rows 10000
  trl-ext data demo --loss kto --json

Only the tokenizer and small files of the model are read, not its weights.

exit code: 0 on success, 2 on a user error or if the data cannot be trained on"""

PICTURE = "data.png"

COLOURS = {"prompt": "dim", "thought": "dim", "cut": "strike dim red"}
ANSWERS = {"chosen": "green", "rejected": "red", "gold": "yellow", "completion": "blue", "prompt": ""}
MARKS = {"learned": ("⟦", "⟧"), "cut": ("✂", "✂"), "prompt": ("", ""), "thought": ("", "")}
ROLES = {"learned": "trained on", "cut": "truncated", "prompt": "of the prompt", "thought": "of masked thoughts"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--rows",
        type=whole_number(1),
        metavar="ROWS",
        help="read only the first ROWS rows (default: all; 1000 of a streamed data set)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder for the plot of lengths, {PICTURE} (default: runs/<recipe>-data)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from trl_ext import recipe
    from trl_ext.runs import libraries

    loaded = recipe.load(args.recipe, args.recipe_keys)
    libraries.configure(loaded)
    output = writable_folder("output", args.output or Path("runs", f"{loaded.name}-data"))

    from trl_ext.build.config import training_config
    from trl_ext.build.inspection import inspect
    from trl_ext.inspection import picture

    config = training_config(loaded, output)
    found = inspect(loaded, config, args.rows)
    output.mkdir(parents=True, exist_ok=True)
    title = f"{loaded.name}: {loaded.title} on {Path(loaded.get('dataset_name') or 'a mixture').name}"
    drawn = picture.draw(output / PICTURE, found.checked.findings.facts, title)
    if args.json:
        print(encoding.as_json(found.to_dict() | {"picture": str(drawn)}, indent=2))
    else:
        _show(found, drawn)
    found.checked.findings.require_teachable()
    return 0


def _show(found: Any, picture: Path) -> None:
    from trl_ext.inspection import thoughts
    from trl_ext.inspection.needed_length import needed_length

    console = terminal.console(markup=False)
    findings = found.checked.findings
    if found.partial:
        console.print(found.partial)
    for statement in found.statements:
        console.print(statement)
        for shown in found.read:
            if shown.sentence in statement:
                _rows_of(console, shown)
    if len(found.classes) > 1:
        console.print("\nThe rows are of more than one kind:", style="bold")
        for shown in found.classes:
            _finding(console, shown, "rows")
    else:
        console.print("\n".join(f"Every row: {shown.sentence}." for shown in found.classes))
    console.print(f"\nAfter tokenization: {count(findings.kept, findings.unit)} to train on", style="bold")
    for shown in found.found:
        _finding(console, shown, findings.unit)
    if (length := needed_length(findings.facts)) is not None:
        console.print(length)
    if not found.found:
        compared = " All text of the messages is among the tokens." if found.is_compared else ""
        console.print(f"No row is dropped, truncated, repeated or without an end-of-sequence token.{compared}")
    if (labels := findings.labels()) is not None:
        console.print(f"Labels: {labels[0]:,} desirable, {labels[1]:,} undesirable.")
    for name, kinds in thoughts.counts(findings.facts).items():
        console.print(f"Thoughts ({name}): {', '.join(f'{number:,} {words}' for words, number in kinds.items())}.")
    if findings.kept:
        console.print(_lengths(findings))
    if found.layout is not None:
        console.print(_layout(found.layout))
    _example(console, found)
    console.print(f"\npicture  {picture}")


def _finding(console: Any, shown: Any, unit: str) -> None:
    from trl_ext.support.counts import count

    dropped = " dropped" if shown.name == "dropped" else ""
    console.print(f"{count(shown.rows, unit)} ({_share(shown.share)}){dropped}: {shown.sentence}.")
    _rows_of(console, shown)


def _rows_of(console: Any, shown: Any) -> None:
    for number, text in shown.examples:
        console.print(f"    row {number:,}: {text}", style="dim")


def _share(share: float) -> str:
    return "all" if share == 1 else f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _lengths(findings: Any) -> Any:
    table = terminal.table("tokens before truncation", "mean", "median", "95 %", "longest")
    for name, part in findings.lengths().items():
        table.add_row(name, f"{part.mean:,.1f}", f"{part.median:,.0f}", f"{part.p95:,.0f}", f"{part.longest:,}")
    return table


def _layout(layout: Any) -> str:
    from trl_ext.support.counts import count

    how = "packed, shared prompts stored once" if layout.is_packed else "padded, sorted by length"
    return (
        f"Tokens in forward passes over {count(layout.examples, 'examples')} in {count(layout.steps, 'random steps')}: {layout.trl:,} with "
        f"TRL's padded micro-batches, {layout.here:,} with these rows ({how}). That is {1 - layout.here / layout.trl:.0%} less, "
        f"a factor of {layout.trl / layout.here:.2f}."
    )


def _example(console: Any, found: Any) -> None:
    from rich.text import Text

    is_plain = not console.is_terminal
    number = int(found.checked.numbers[found.example])
    console.print(f"\nRow {number:,} as the trainer sees it", style="bold")
    marks = (
        "⟦ ⟧ trained on, ✂ ✂ truncated" if is_plain else "coloured: trained on; dim: prompt; struck through: truncated"
    )
    console.print(f"{marks}; special tokens are shown{'' if is_plain else ' in bold'}", style="dim")
    for heading, parts, answer in _sequences(found.rendered):
        tokens = ", ".join(f"{part.tokens:,} {ROLES[part.role]}" for part in parts)
        text = Text()
        for part in parts:
            opening, closing = MARKS[part.role] if is_plain else ("", "")
            text.append(f"{opening}{part.text}{closing}", style=COLOURS.get(part.role, ANSWERS[answer]))
        text.highlight_words(found.special_tokens, "bold cyan not dim")
        console.print(f"── {heading}, tokens: {tokens or 'none'}", style="bold")
        console.print(text)


def _sequences(rendered: dict[str, list]) -> list[tuple[str, list, str]]:
    """Heading, parts and name of each completion. A prompt that both completions share comes once, before them."""
    sequences = list(rendered.values())
    shared = sequences[0][:1]
    if len(sequences) == 1 or shared != sequences[1][:1] or not shared or shared[0].role != "prompt":
        return [(name, parts, name) for name, parts in rendered.items()]
    return [("prompt", shared, "prompt"), *((f"… {name}", parts[1:], name) for name, parts in rendered.items())]
