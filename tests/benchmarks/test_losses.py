"""The table of losses on the demo: means and spreads over seeds, by KL."""

import json

import pytest

from benchmarks import losses as measured
from trl_ext import losses


def record(reward, kl):
    runs = [
        {"seed": i, "reward": r, "fluency": 0.99, "kl": k} for i, (r, k) in enumerate(zip(reward, kl, strict=True))
    ]
    return {
        "runs": runs,
        "base": {"reward": 0.48, "fluency": 0.992, "kl": 0.0},
        "completions": 200,
        "date": "2026-01-02",
    }


def test_rows_are_means_and_standard_deviations_by_kl(tmp_path, monkeypatch):
    path = tmp_path / "losses.json"
    found = {
        "dpo": record([0.9, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0]),
        "dpop": record([0.7, 0.8, 0.7, 0.8], [0.4] * 4),
        "dpo, humanline": record([0.8, 0.8, 0.8, 0.8], [2.0] * 4),
    }
    path.write_text(json.dumps(found))
    monkeypatch.setattr(measured, "RESULTS", path)
    rows = measured.table().splitlines()
    assert rows[2:6] == [
        "| before | 0.480 | 0 | 0.992 |",
        "| `dpop` | 0.750 ± 0.058 | 0.40 ± 0.00 | 0.990 |",  # √(4 · .05² / 3)
        "| `dpo` | 0.900 ± 0.000 | 1.00 ± 0.00 | 0.990 |",
        "| `dpo`, humanline | 0.800 ± 0.000 | 2.00 ± 0.00 | 0.990 |",
    ]
    assert "4 seeds; 200 held-out prompts; measured 2026-01-02" in rows[-1]


def test_saved_results_are_of_losses_and_all_seeds():
    saved = json.loads(measured.RESULTS.read_text(encoding="utf-8"))
    assert measured.YARDSTICK in saved and set(saved) <= {*losses.available(), *measured.HUMANLINE}
    for found in saved.values():
        assert [run["seed"] for run in found["runs"]] == [*measured.SEEDS]
        assert found["base"]["reward"] == pytest.approx(saved[measured.YARDSTICK]["base"]["reward"])
