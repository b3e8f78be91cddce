"""What was measured on a GPU, in words, from results that are made up here."""

import shutil
from pathlib import Path

import pytest

from benchmarks.gpu.results import FOLDER
from benchmarks.gpu.results import measured as results_of
from benchmarks.real import summary
from docs import measured, real_page
from docs.measured import header, tables, with_header
from trl_ext import recipe
from trl_ext.recipe import shipped

RECIPES = Path(__file__).parents[2] / "recipes"
COMMON = {"date": "2026-11-22T10:11:12+00:00", "commit": "0123abc", "fits": True, "why": None}
STEP = {
    **COMMON, "planned_gib": 18.0, "reserved_gib": 17.5, "context_gib": 0.5, "allocated_gib": 17.0, "seconds": 6.413,
    "tokens_per_second": 1834.4, "roofline_share": 0.456,
}  # fmt: skip
ROLLOUT = {
    **COMMON, "planned_gib": 17.0, "reserved_gib": 17.5, "context_gib": 0.5, "seconds": 42.0, "rollout_seconds": 60.04,
    "update_seconds": 9.5,
}  # fmt: skip
NO_ROOM = {**COMMON, "fits": False, "why": "Out of memory in the backward pass."}
FAILED = {**COMMON, "fits": None, "why": "No kernel image."}
CELLS = {
    "llama-3.1-8b-ipo": {
        "step": STEP,
        "trl": {**COMMON, "ratio": 2.614},
        "row_tokens": {**COMMON, "row_tokens": 9216},
        "packed_vs_padded": {**COMMON, "largest_difference": 0.0312, "within": True},
        "profile": {**COMMON, "shares": {"dequantisation": 0.07}},
    },
    "qwen3-14b-dpo-zh-en": {"step": STEP, "trl": NO_ROOM},
    "gemma-2-9b-simpo": {"step": NO_ROOM},
    "zephyr-7b-dpo": {"step": FAILED, "trl": FAILED},
    "qwen3-4b-ppo": {"rollout": ROLLOUT},
    "qwen3-8b-kto": {"profile": NO_ROOM},
}


def record(card: str = "NVIDIA H200", cells: dict = CELLS) -> dict:
    return {
        "card": {
            "name": card,
            "memory_gib": 139.8,
            "cap_gib": 22.5,
            "bf16_tflops_measured": 712.3,
            "compute_capability": "9.0",
        },
        "versions": {"torch": "2.11.0", "transformers": "5.17.0", "trl": "1.16.0"},
        "date": "2026-11-22T10:00:00+00:00",
        "small": False,
        "cells": cells,
    }


def rows(text: str) -> dict[str, dict[str, str]]:
    """A Markdown table by the first column, its empty cells left out."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {
        line[0].strip("`"): {name: cell for name, cell in zip(lines[0][1:], line[1:], strict=True) if cell}
        for line in lines[2:]
    }


def test_every_outcome_has_its_words():
    found = rows(tables([record()]))
    assert found == {
        "llama-3.1-8b-ipo": {
            "peak, GiB": "18.0",
            "planned": "18.0 (+0.0%)",
            "s per step": "6.41",
            "tokens/s": "1,834",
            "share of matmul rate": "46%",
            "TRL time ÷ ours": "2.61",
            "longest row, tokens": "9,216",
            "dequantisation": "7%",
            "packed − padded, nats": "0.031",
        },
        "qwen3-14b-dpo-zh-en": {
            "peak, GiB": "18.0",
            "planned": "18.0 (+0.0%)",
            "s per step": "6.41",
            "tokens/s": "1,834",
            "share of matmul rate": "46%",
            "TRL time ÷ ours": "does not fit",
        },
        "gemma-2-9b-simpo": {"peak, GiB": "does not fit"},
        "zephyr-7b-dpo": {"peak, GiB": "failed", "TRL time ÷ ours": "failed"},
        "qwen3-4b-ppo": {"peak, GiB": "18.0", "planned": "17.0 (−5.6%)", "s per step": "42.0"},
        "qwen3-8b-kto": {"peak, GiB": "not measured yet", "dequantisation": "does not fit"},
    }


def test_the_table_names_card_cap_versions_and_day():
    text = tables([record(), record("NVIDIA L4")])
    for said in ("NVIDIA H200 with the allocator limited to 22.5 GiB", "on NVIDIA L4", "torch 2.11.0", "712 TFLOP/s"):
        assert said in text
    assert text.count("| recipe |") == 2 and text.count("2026-11-22") == 2


def test_a_difference_beyond_the_tolerance_is_called_so():
    cells = {"x": {"packed_vs_padded": {**COMMON, "largest_difference": 1.25, "within": False}}}
    assert rows(tables([record(cells=cells)]))["x"]["packed − padded, nats"] == "1.2 (above tolerance)"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "llama-3.1-8b-ipo",
            "18.0 GiB, 6.41 s per step on NVIDIA H200 limited to 22.5 GiB (18.0 GiB planned, 1,834 tokens/s, TRL takes 2.61 times "
            "as long, 2026-11-22).",
        ),
        (
            "qwen3-14b-dpo-zh-en",
            "18.0 GiB, 6.41 s per step on NVIDIA H200 limited to 22.5 GiB (18.0 GiB planned, 1,834 tokens/s, TRL does not fit, "
            "2026-11-22).",
        ),
        (
            "gemma-2-9b-simpo",
            "does not fit on NVIDIA H200 limited to 22.5 GiB (Out of memory in the backward pass; 2026-11-22).",
        ),
        ("zephyr-7b-dpo", "failed on NVIDIA H200 limited to 22.5 GiB (No kernel image; 2026-11-22)."),
        (
            "qwen3-4b-ppo",
            "18.0 GiB, 42.0 s per step on NVIDIA H200 limited to 22.5 GiB (17.0 GiB planned, rollout 60.0 s, update 9.50 s, "
            "2026-11-22).",
        ),
        ("qwen3-8b-kto", "not measured yet."),
        ("olmo-2-7b-dpo-norm", "not measured yet."),
    ],
)
def test_headers(name, said):
    assert header(name, [record()]) == said


def test_a_header_names_every_card_it_was_measured_on():
    both = header("llama-3.1-8b-ipo", [record(), record("NVIDIA L4")])
    assert "on NVIDIA H200" in both and "on NVIDIA L4" in both and both.count("s per step on") == 2


def test_headers_are_written_and_checked(tmp_path):
    for name in ("llama-3.1-8b-ipo.yaml", "olmo-2-7b-dpo-norm.yaml", "demo.yaml"):
        shutil.copy(RECIPES / name, tmp_path)
    before = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    of_a_folder = "# Measured peak and time: by hand.\nmodel_name_or_path: ~/nowhere/model\n"
    (tmp_path / "llama-local.yaml").write_text(of_a_folder, encoding="utf-8")  # read where its model is absent
    changed = ["recipes/llama-3.1-8b-ipo.yaml"]
    assert measured.headers(tmp_path, lambda name: header(name, [record()]), check=True) == changed
    assert measured.headers(tmp_path, lambda name: header(name, [record()]), check=False) == changed
    assert measured.headers(tmp_path, lambda name: header(name, [record()]), check=True) == []
    after = (tmp_path / "llama-3.1-8b-ipo.yaml").read_text(encoding="utf-8")
    assert "GiB held" not in after and max(map(len, after.splitlines())) < 120
    assert recipe.load(tmp_path / "llama-3.1-8b-ipo.yaml").values == recipe.load(RECIPES / changed[0][8:]).values
    assert (
        with_header(after, header("llama-3.1-8b-ipo", [])) == before["llama-3.1-8b-ipo.yaml"]
    )  # several lines become one
    for name in ("olmo-2-7b-dpo-norm.yaml", "demo.yaml"):
        assert (tmp_path / name).read_text(encoding="utf-8") == before[name]
    assert (tmp_path / "llama-local.yaml").read_text(encoding="utf-8") == of_a_folder


def test_the_table_of_recipes_takes_the_beginning_of_a_header(tmp_path):
    text = with_header(
        (RECIPES / "llama-3.1-8b-ipo.yaml").read_text(encoding="utf-8"), header("llama-3.1-8b-ipo", [record()])
    )
    file = tmp_path / "llama-3.1-8b-ipo.yaml"
    file.write_text(text, encoding="utf-8")
    assert shipped.describe(file).measured == "18.0 GiB, 6.41 s per step on NVIDIA H200 limited to 22.5 GiB"


def test_without_results_the_table_says_how_to_get_some():
    assert tables([]).startswith("Nothing has been measured on a GPU yet. `make bench-gpu`")


def test_shipped_headers_and_table_agree_with_shipped_results():
    results = results_of(FOLDER)
    real = summary.read()
    of_a_recipe = lambda name: real_page.header(name, real) or header(name, results)  # noqa: E731
    assert measured.headers(RECIPES, of_a_recipe, check=True) == []
    assert f"\n{tables(results)}\n" in (RECIPES.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
