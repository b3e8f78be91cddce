"""Write the results of `python -m benchmarks.gpu` into the table of docs/benchmarks.md and into recipe headers."""

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results
from trl_ext.recipe.shipped import describe

NAME = "Measured peak and time"
LINE = re.compile(rf"^# {NAME}: .*\n(?:#   .*\n)*", re.MULTILINE)
WIDTH = 119
NOTHING = "not measured yet"
COLUMNS = (
    "recipe", "peak, GiB", "planned", "s per step", "tokens/s", "share of matmul rate", "TRL time ÷ ours",
    "longest row, tokens", "dequantisation", "packed − padded, nats",
)  # fmt: skip


def tables(results: Sequence[Results]) -> str:
    """A table for each card; without results, the command that measures them."""
    if not results:
        return "Nothing has been measured on a GPU yet. `make bench-gpu` measures all recipes on your GPU; it downloads nothing."
    return "\n\n".join(_table(record) for record in results)


def header(recipe: str, results: Sequence[Results]) -> str:
    """The text after the colon: a sentence for each card on which the recipe was measured."""
    found = [_sentence(record, record["cells"].get(recipe, {})) for record in results]
    return " ".join(filter(None, found)) or f"{NOTHING}."


def with_header(text: str, measurement: str) -> str:
    """The text of a recipe's file with its line of measurements updated."""
    line = textwrap.fill(
        f"# {NAME}: {measurement}",
        WIDTH,
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return LINE.sub(lambda _: f"{line}\n", text, count=1)


def headers(folder: Path, measurement: Callable[[str], str], check: bool) -> list[str]:
    """Names of the recipes whose header is out of date; unless `check` is set, the headers are rewritten.

    Args:
        folder: Of the recipes.
        measurement: What was measured of the recipe of a name, in words.
        check: Whether to write nothing.
    """
    stale = []
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if not describe(path).is_on_hub:  # measured on a CPU and written by hand
            continue
        new = with_header(text, measurement(path.stem))
        if new != text:
            stale.append(f"recipes/{path.name}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return stale


def peak_gib(cell: dict[str, Any]) -> float:
    """Memory of a run on its card: the maximum reserved by the allocator, plus the CUDA context."""
    return cell["reserved_gib"] + cell["context_gib"]


def of_a_step(cells: dict[str, Any]) -> dict[str, Any] | None:
    """The cell of a recipe with memory and time of a step."""
    return cells.get("step") or cells.get("rollout")


def _sentence(record: Results, cells: dict[str, Any]) -> str | None:
    cell, card = of_a_step(cells), record["card"]
    if cell is None:
        return None
    where = f"on {card['name']} limited to {card['cap_gib']:g} GiB"
    if not cell["fits"]:
        return f"{_failure(cell)} {where} ({_because(cell)}{cell['date'][:10]})."
    more = [f"{cell['planned_gib']:.1f} GiB planned"]
    if "rollout_seconds" in cell:
        more.append(f"rollout {_seconds(cell['rollout_seconds'])} s, update {_seconds(cell['update_seconds'])} s")
    else:
        more.append(f"{cell['tokens_per_second']:,.0f} tokens/s")
    if trl := _trl(cells.get("trl")):
        more.append(f"TRL {trl}" if cells["trl"]["fits"] is not True else f"TRL takes {trl} times as long")
    return f"{peak_gib(cell):.1f} GiB, {_seconds(cell['seconds'])} s per step {where} ({', '.join(more)}, {cell['date'][:10]})."


def _table(record: Results) -> str:
    card, versions = record["card"], record["versions"]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(_row(recipe, cells))} |" for recipe, cells in sorted(record["cells"].items())]
    which = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl") if name in versions)
    return "\n".join(
        [
            *lines,
            "",
            f"Measured from {record['date'][:10]} on {card['name']} with the allocator limited to {card['cap_gib']:g} GiB, {which}. "
            f"bfloat16 matrix products of 8192³ reach {card['bf16_tflops_measured']:.0f} TFLOP/s on it. Peak: all memory in use on "
            "the card, including the CUDA context. Tokens: those of sequences, without padding. The time of a PPO step is that of a "
            "rollout and its updates, divided by the number of updates.",
        ]
    )


def _row(recipe: str, cells: dict[str, Any]) -> list[str]:
    cell = of_a_step(cells)
    row = dict.fromkeys(COLUMNS, "") | {"recipe": f"`{recipe}`", "peak, GiB": NOTHING}
    if cell is not None and cell["fits"]:
        peak, planned = peak_gib(cell), cell["planned_gib"]
        row |= {
            "peak, GiB": f"{peak:.1f}",
            "planned": f"{planned:.1f} ({planned / peak - 1:+.1%})".replace("-", "−"),
            "s per step": _seconds(cell["seconds"]),
        }
        if "roofline_share" in cell:
            row |= {
                "tokens/s": f"{cell['tokens_per_second']:,.0f}",
                "share of matmul rate": f"{cell['roofline_share']:.0%}",
            }
    elif cell is not None:
        row["peak, GiB"] = _failure(cell)
    row["TRL time ÷ ours"] = _trl(cells.get("trl"))
    if (rows := cells.get("row_tokens")) is not None:
        row["longest row, tokens"] = f"{rows['row_tokens']:,}" if rows["fits"] else _failure(rows)
    if (profile := cells.get("profile")) is not None:
        row["dequantisation"] = f"{profile['shares']['dequantisation']:.0%}" if profile["fits"] else _failure(profile)
    if (packed := cells.get("packed_vs_padded")) is not None:
        row["packed − padded, nats"] = _difference(packed)
    return list(row.values())


def _trl(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return f"{cell['ratio']:.2f}" if cell["fits"] else _failure(cell)


def _difference(cell: dict[str, Any]) -> str:
    if not cell["fits"]:
        return _failure(cell)
    return f"{cell['largest_difference']:.2g}{'' if cell['within'] else ' (above tolerance)'}"


def _failure(cell: dict[str, Any]) -> str:
    return "failed" if cell["fits"] is None else "does not fit"


def _because(cell: dict[str, Any]) -> str:
    return f"{cell['why'].rstrip('.')}; " if cell["why"] else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
