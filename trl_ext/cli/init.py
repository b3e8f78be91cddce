"""`trl-ext init`: write a commented recipe from a model, a data file and a card."""

import argparse
import math
import re
from pathlib import Path
from typing import Any

from trl_ext.cli.recipe_keys import take_recipe_keys
from trl_ext.cli.values import number
from trl_ext.support import terminal
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

HELP = "write a recipe for a model, a data file and a card"
EXAMPLES = """examples:
  trl-ext init Qwen/Qwen3-4B pairs.jsonl
  trl-ext init Qwen/Qwen3-4B pairs.jsonl --card 3090 --loss ipo --output my.yaml
  trl-ext init models/my-sft labelled.csv --lora_r 64
  trl-ext init Qwen/Qwen3-4B chats.jsonl
  trl-ext init Qwen/Qwen3-4B prompts.jsonl --reward_funcs rewards.py:length
  trl-ext init embedded embedded --output demo-of-mine.yaml

Pairs get dpo, labelled completions kto, conversations and completions supervised fine-tuning, prompts with a reward PPO; `--loss` and `--trainer` choose others. Weights are not loaded. An existing file is never overwritten.

exit code: 0 on success, 2 on a user error"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s MODEL DATA [--key value ...]"
    model = parser.add_argument("model", metavar="MODEL", nargs="?", help="a folder, a name on the Hub, or `embedded`")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a file, a folder, a name on the Hub, or `embedded`")
    parser.add_argument(
        "--card",
        metavar="NAME",
        help="graphics card, for instance 3090 (default: the one of this computer, or 24 GiB)",
    )
    parser.add_argument(
        "--vram",
        type=number("GiB, for instance 24", lambda value: 0 < value < math.inf),
        metavar="GIB",
        help="memory of another card in GiB",
    )
    parser.add_argument("--output", metavar="FILE", help="the recipe (default: <model>-<loss>.yaml)")
    take_recipe_keys(parser, model, is_optional=True)


def run(args: argparse.Namespace) -> int:
    if args.model is None or args.data is None:
        raise UserError("Give a model and data: `trl-ext init Qwen/Qwen3-4B pairs.jsonl`.")
    from trl_ext.recipe.layers.entries import folded

    given = folded(args.recipe_keys)
    for key in ("model_name_or_path", "dataset_name"):
        if key in given:
            raise UserError(f"`--{key}` is given twice. Model and data are the first two words: remove the flag.")
    path = None if args.output is None else _free(args.output)

    from trl_ext.recipe import Recipe
    from trl_ext.runs import libraries

    # Before the imports below; the recipe is still to be made.
    libraries.configure(Recipe(Path(), {"trainer": "sft", "env": given.get("env") or {}}, set(), None, {}))
    from trl_ext.planner import cards

    card = cards.choose(args.card, args.vram)
    from trl_ext.drafting.kind import kind_of

    console = terminal.console(markup=False)
    console.print(f"reading {args.data} and the tokenizer of {args.model} …")
    kind = kind_of(args.data, given)
    path = path or _free(f"{_slug(Path(args.model).name)}-{_slug(_title(kind | given))}.yaml")

    from trl_ext.drafting.draft import draft

    made = draft(path, args.model, args.data, card, kind, given)
    with open(path, "x", encoding="utf-8") as file:
        file.write(made.text)
    _show(console, path, made)
    return 0


def _title(values: dict[str, Any]) -> str:
    """What is trained, for the name of the file."""
    named = values.get("loss") or values.get("loss_type") or values.get("trainer")
    return "-".join(named) if isinstance(named, (list, dict)) else str(named)


def _free(given: str) -> Path:
    """The path of the new recipe. UserError if it exists or cannot be written."""
    from trl_ext.cli.values import writable_folder

    path = Path(given).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(f"{path.name}.yaml")
    if path.exists():
        raise UserError(
            f"{path} exists, and `trl-ext init` overwrites nothing. Choose another file with `--output FILE`."
        )
    writable_folder("output", path.parent)
    return path


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "recipe"


def _show(console: Any, path: Path, made: Any) -> None:
    from trl_ext.cli.summary import summary
    from trl_ext.planner.memory import GIB

    console.print(f"wrote {path}", style="bold")
    lines = summary(made.recipe)
    for name in ("loss", "trainer", "data", "adapter", "length", "step", "learning rate"):
        if name in lines:
            console.print(f"  {name:<14} {lines[name]}")
    console.print(f"  {'duration':<14} about {count(made.duration.steps, 'steps')}")
    console.print(f"  {'planned peak':<14} {made.plan.peak / GIB:.1f} of {made.plan.vram:g} GiB")
    for note in made.recipe.notes:
        console.print(f"Note: {note}")
    console.print(f"next:\n  trl-ext data {path}\n  trl-ext plan {path}\n  trl-ext run {path}")
