"""Put the completions of all runs for one prompt side by side, and mark the words that differ from the base's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl_ext.report.differences import marked


def side_by_side(measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts for which the base and every run sampled a completion; those on which runs differ most come first.

    Returns:
        For each prompt its `prompt`, and `completions` with `name`, `scores` (name and value) and `parts`: pieces of text with
        whether they differ from the base's completion.
    """
    found = [
        (run.get("name", "base"), {sample["prompt"]: sample for sample in run.get("samples", ())})
        for run in (base, *measured)
    ]
    prompts = [prompt for prompt in found[0][1] if all(prompt in samples for _, samples in found)]
    prompts.sort(key=lambda prompt: _difference([samples[prompt] for _, samples in found]), reverse=True)
    return [{"prompt": prompt, "completions": _completions(prompt, found)} for prompt in prompts]


def _completions(prompt: str, found: list[tuple[str, dict[str, dict]]]) -> list[dict[str, Any]]:
    of_base = found[0][1][prompt]["text"]
    return [
        {
            "name": name,
            "scores": list((samples[prompt].get("scores") or {}).items()),
            "parts": marked(of_base, samples[prompt]["text"]),
        }
        for name, samples in found
    ]


def _difference(samples: list[dict[str, Any]]) -> tuple[int, float, int]:
    """How much completions of one prompt differ: number of different ones among the runs, largest difference of their first
    reward, words that differ from the base's."""
    of_base, *of_runs = samples
    first = [next(iter((sample.get("scores") or {}).values()), 0.0) for sample in of_runs]
    words = sum(
        len(text) for sample in of_runs for text, differs in marked(of_base["text"], sample["text"]) if differs
    )
    return len({sample["text"] for sample in of_runs}), max(first) - min(first), words
