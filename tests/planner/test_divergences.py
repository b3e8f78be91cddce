"""The memory of a loss that compares whole distributions (TDPO), against its step on fake tensors and by hand."""

from dataclasses import replace

import pytest

from tests.planner.helpers import SHAPES, shallow
from tests.planner.test_memory import ratio
from trl_ext.batching import token_kl
from trl_ext.planner import counting, divergences, dry_run, memory, plan
from trl_ext.planner.memory import EAGER, SDPA, Row, Storage
from trl_ext.planner.models import MODELS

PADDED = {"kernel": SDPA, "width": 1024}
MOMENT = "the divergences from the reference"


@pytest.mark.parametrize(
    ("config", "row", "storage", "rank", "tolerance"),
    [
        (SHAPES["Llama-3.1-8B"], Row(2048), Storage(), 16, 0.005),
        (SHAPES["Llama-3.1-8B"], Row(8192), Storage(), 16, 0.005),
        (SHAPES["Gemma-3-12B"], Row(200), Storage(), 16, 0.005),  # fewer tokens than a tile
        (MODELS["google/gemma-2-9b-it"], Row(2048, kernel=EAGER, width=1024), Storage(), 16, 0.02),
        (SHAPES["Llama-3.1-8B"], Row(2048, activation=4, **PADDED), Storage(weight=4), 16, 0.02),
        (SHAPES["Llama-3.1-8B"], Row(2048, activation=4, **PADDED), Storage(bits=16, weight=4), None, 0.02),
    ],
    ids=["one tile and more", "many tiles", "part of a tile", "capped logits", "float32", "all weights"],
)
def test_a_tile_and_the_states_on_fake_tensors(config, row, storage, rank, tolerance):
    config, adapter = shallow(config, 1), {"rank": rank}
    shape = counting.count(config, rank, is_quantised=storage.bits < 16)
    without = dry_run.run(config, row, storage, **adapter)
    found = dry_run.run(config, replace(row, reads_distributions=True), storage, **adapter)
    assert found.static == without.static
    assert found.stored - without.stored == pytest.approx(divergences.states(shape, found.row), rel=1e-3)
    tile = divergences.tile(shape, found.row, storage)
    assert found.peak - found.stored - found.static == pytest.approx(tile, rel=tolerance)


def test_a_whole_step_on_fake_tensors():
    config, row = shallow(SHAPES["Llama-3.1-8B"], 2), Row(2048, reads_distributions=True)
    assert memory.activations(counting.count(config, 16), row, Storage(), 2)[0] == MOMENT
    assert ratio(config, row, 2) == pytest.approx(1, abs=0.005)


def test_by_hand():
    """Llama 3.1 8B: 128,256 entries, 4,096 numbers a token, so a tile has 261 tokens. 2,048 tokens, of which 60 % are scored."""
    shape, row = counting.count(SHAPES["Llama-3.1-8B"], 16), Row(2048, 0.6)
    assert divergences.states(shape, row) == pytest.approx(0.6 * 2048 * 4096 * 2)
    assert divergences.tile(shape, row, Storage()) == 5 * 4 * 261 * 128_256
    assert divergences.tile(shape, Row(100, 0.6), Storage()) == pytest.approx(5 * 4 * 60 * 128_256)
    assert divergences.TILE_LOGITS == token_kl.LOGITS


def test_plans_count_them(shipped):
    plans = {loss: plan(shipped("zephyr-7b-dpo", loss=loss), choice=(1024, 32)) for loss in ("dpo", "tdpo")}
    assert plans["tdpo"].moment == MOMENT and plans["tdpo"].peak > plans["dpo"].peak
    assert {"tile of logits of both models", "last states of the reference"} <= {t.name for t in plans["tdpo"].terms}
    assert not any("tile" in term.name for term in plans["dpo"].terms)
