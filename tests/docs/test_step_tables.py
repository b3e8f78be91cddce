"""The tables of steps against TRL, from measurements that are made up here."""

import json

from benchmarks.measure import HEAD, PRODUCTS
from benchmarks.step_record import AS_IS, NARROW
from docs import step_tables
from docs.step_tables import NOTHING, full, lines, saved

GIB = 2**30
DEFAULT = f"TRL default, 8 pairs, {NARROW}"
NOTES = {
    "date": "2026-11-29", "device": "CPU (x, 2 cores)", "threads": 1, "versions": {"torch": "2.13.0", "trl": "1.16.0"},
    "data": "hh.jsonl",
    "settings": {"pairs": 8, "rounds": 1, "max_length": 512, "model": "smollm2-135m-instruct", "layers": 30},
}  # fmt: skip


def record(*theirs: float) -> dict:
    """Seeds in which TRL takes so many seconds and 4 GiB, and ours 10 s and 2 GiB with the same checkpointing."""
    shares = {PRODUCTS: 0.75, HEAD: 0.25}
    cells = {
        str(seed): {
            DEFAULT: [{"seconds": seconds, "peak_bytes": 4 * GIB, "shares": shares}],
            "packed, checkpointing": [{"seconds": 10.0, "peak_bytes": 2 * GIB, "shares": shares}],
        }
        for seed, seconds in enumerate(theirs)
    }
    return {
        **NOTES,
        "tokens": {seed: {"TRL, 4 pairs": 250, "TRL, 8 pairs": 300, "ours": 100} for seed in cells},
        "cells": cells,
    }


def test_without_results_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(step_tables, "RESULTS", tmp_path)
    assert saved("other") is None
    (tmp_path / "step-other-cpu.json").write_text(json.dumps({**NOTES, "tokens": {}, "cells": {}}), encoding="utf-8")
    assert saved("other") is None
    assert full(None) == NOTHING
    assert lines({**NOTES, "tokens": {}, "cells": {"0": {"packed": [{"seconds": 1.0}]}}}) == []


def test_medians_of_the_seeds_with_the_spread_of_the_ratio():
    found = record(20.0, 45.0, 40.0)
    assert lines(found) == [
        "| the same, both with gradient checkpointing | 40.0 | 10.0 | TRL ÷ ours 4.00 (2.00 … 4.50) |",
        "| DPO step: peak GiB, both with gradient checkpointing | 4.00 | 2.00 | TRL ÷ ours 2.00 (2.00 … 2.00) |",
    ]
    assert "\nMedians of 3 seeds, with the smallest and the largest ratio. Measured 2026-11-29 on CPU" in full(found)


def test_a_benchmark_that_is_not_finished_shows_what_it_has():
    half = record(20.0)
    half["cells"]["0"][f"TRL default, 8 pairs, {AS_IS}"] = [{"seconds": 50.0, "peak_bytes": GIB}]
    half["cells"]["0"]["packed"] = [{"seconds": 8.0, "peak_bytes": 3 * GIB}]
    half["cells"]["1"] = {DEFAULT: [{"seconds": 99.0, "peak_bytes": GIB}]}
    assert "| DPO step: seconds, TRL at its defaults | 50.0 | 8.0 | TRL ÷ ours 6.25 |" in lines(half)
    assert "| the same, both with gradient checkpointing | 20.0 | 10.0 | TRL ÷ ours 2.00 |" in lines(half)
    assert not any("both without" in line for line in lines(half))
    assert "One seed. Measured" in full(half)  # the second has nothing to compare with yet


def test_memory_without_checkpointing_is_continued_from_few_layers_and_checked_on_ours():
    found = record(20.0)
    found["cells"]["0"] |= {
        "packed": [{"seconds": 8.0, "peak_bytes": 3 * GIB}],
        "packed, 3 layers": [{"seconds": 1.0, "peak_bytes": 0.5 * GIB}],
        "packed, 6 layers": [{"seconds": 1.0, "peak_bytes": 0.8 * GIB}],
        f"TRL, 8 pairs, {NARROW}, 3 layers": [{"seconds": 1.0, "peak_bytes": 1 * GIB}],
        f"TRL, 8 pairs, {NARROW}, 6 layers": [{"seconds": 1.0, "peak_bytes": 2 * GIB}],
    }
    assert "| DPO step: peak GiB, both without | 10.00 | 3.00 | TRL ÷ ours 3.33 |" in lines(found)
    assert "| peak memory of a step, 8 pairs, no checkpointing | 3.33 |" in full(found)
    assert "For trl-ext this gives 3.20 GiB, and a whole step takes 3.00 GiB." in full(found)


def test_the_parts_of_a_step_are_seconds():
    text = full(record(20.0, 40.0))
    assert f"| {PRODUCTS} | 22.5 | 7.5 | 3.00 |" in text
    assert f"| {HEAD} | 7.5 | 2.5 | 3.00 |" in text
    assert "TRL computes 2.50 (2.50 … 2.50) and 3.00 (3.00 … 3.00) times as many tokens per forward pass" in text
