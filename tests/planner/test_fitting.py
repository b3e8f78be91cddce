"""What is chosen, against trying everything; what is largest, against one more."""

import re
from dataclasses import replace

import pytest

from tests.planner.conftest import RECIPES
from trl_ext.planner import counting, memory
from trl_ext.planner.fitting import Fit, Overhead
from trl_ext.planner.memory import GIB, Row
from trl_ext.planner.request import read
from trl_ext.planner.vram_plan import DISPLAY


@pytest.fixture
def fit(shipped):
    return lambda name, gib, **changes: Fit(read(shipped(name, **changes)), gib * GIB)


@pytest.mark.parametrize("gib", [8, 10, 14.5, 22.5, 40])
@pytest.mark.parametrize("name", ["llama-3.1-8b-ipo", "qwen3-8b-kto", "zephyr-7b-dpo"])
def test_nothing_that_fits_is_faster(fit, name, gib):
    judged = fit(name, gib)
    longest = judged.request.longest
    sizes = {longest, *range(longest // 256 * 256, max(4096, longest) + 1, 256)}
    fitting = [(t, k) for t in sizes for k in range(judged.layers + 1) if judged.fits(t, k)]
    times = [(6 + 2 * k / judged.layers) * (1 + 230 / t) for t, k in fitting]
    choice = judged.choose()
    if not fitting:
        assert choice is None
        return
    tokens, count = choice
    assert judged.fits(tokens, count)
    assert (6 + 2 * count / judged.layers) * (1 + 230 / tokens) == pytest.approx(min(times))


def test_recipes_use_the_fused_optimizer_where_it_recomputes_no_more(shipped):
    """With the states of a small adapter in 8 bits, 0.6 GiB are saved at most, and each weight matrix waits for the GPU."""
    chosen = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = shipped(path.stem)
        card = re.search(r"Hardware: one (\d+) GB", path.read_text(encoding="utf-8"))
        if card is None or recipe.get("lora_r") > 32:  # without a card, they are for any machine
            continue
        choices = [
            Fit(read(shipped(path.stem, optim=optim)), (int(card[1]) - DISPLAY) * GIB).choose()
            for optim in ("adamw_torch_fused", "paged_adamw_8bit")
        ]
        assert None not in choices, path.stem
        chosen[path.stem] = recipe.get("optim")
        assert recipe.get("optim") == ("adamw_torch_fused" if choices[0] == choices[1] else "paged_adamw_8bit")
    assert len(chosen) == 14 and set(chosen.values()) == {"adamw_torch_fused", "paged_adamw_8bit"}


def test_total_is_the_sum_of_its_parts(fit):
    judged = fit("llama-3.1-8b-ipo", 24)
    shape, storage = judged.request.shape, judged.request.storage
    row = Row(2048, keys_per_token=1 + 2 * 0.4)  # a pair whose prompt is 40 % of its row
    live = memory.peak(shape, row, storage, 7)
    activations = live - judged.static()
    assert judged.total(2048, 7) == pytest.approx(live + 0.08 * activations + 0.6 * GIB)


@pytest.mark.parametrize("name", ["llama-3.1-8b-ipo", "gemma-2-9b-simpo", "qwen3-14b-dpo-zh-en"])
def test_one_more_does_not_fit(fit, name):
    judged = fit(name, 22.5)
    layers, sequences = judged.layers, judged.request.training.sequences
    row, length = judged.largest_row(), judged.longest_sequence()
    assert judged.fits(row, layers) and not judged.fits(row + 1, layers)
    for longer, fits in ((length, True), (length + 1, False)):
        assert judged.fits(sequences * longer, layers, width=longer) == fits


def test_the_largest_rank_counted_anew(fit):
    judged = fit("llama-3.1-8b-ipo", 14.5)
    rank, longest = judged.largest_rank(), judged.request.longest
    for larger, fits in ((rank, True), (rank + 1, False)):
        shape = counting.count(judged.request.config, larger)
        assert judged.fits(longest, judged.layers, shape=shape) == fits


def test_quadratic_attention_bounds_sequences_but_not_rows(fit):
    judged = fit("gemma-2-9b-simpo", 22.5)
    # Rows of 2048-token sequences grow linearly; one pair of sequences grows with their square.
    assert judged.longest_sequence() < judged.largest_row() // 2


def test_recipes_that_decide_are_obeyed(fit):
    assert fit("llama-3.1-8b-ipo", 22.5, row_tokens=4608).choose()[0] == 4608
    assert fit("llama-3.1-8b-ipo", 22.5, gradient_checkpointing=True).choose()[1] == 32
    assert fit("llama-3.1-8b-ipo", 22.5, gradient_checkpointing=False, max_length=512).choose()[1] == 0
    assert fit("llama-3.1-8b-ipo", 12, gradient_checkpointing=False).choose() is None


def test_whole_micro_batches_recompute_no_more_than_memory_requires(fit):
    def four_pairs(**keys):
        return fit("qwen3-4b-reward", 22.5, per_device_train_batch_size=4, **keys)

    judged = four_pairs()
    tokens, count = judged.choose()
    assert tokens == 4 * 2 * 2048 and 0 < count < judged.layers
    assert judged.fits(tokens, count) and not judged.fits(tokens, count - 1)
    assert four_pairs(gradient_checkpointing=True).choose() == (tokens, judged.layers)
    assert four_pairs(gradient_checkpointing=False).choose() is None
    for key in ("activation_offloading", "torch_compile"):  # with which a run does not choose
        assert four_pairs(**{key: True}).choose() == (tokens, judged.layers)
    assert fit("smollm2-135m-short-sft", 22.5, gradient_checkpointing="auto").choose()[1] == 0


def test_other_overheads_change_the_total(fit):
    judged = fit("llama-3.1-8b-ipo", 22.5)
    more = replace(judged, overhead=Overhead(1.08, 1.6 * GIB))
    assert more.total(2048, 32) - judged.total(2048, 32) == pytest.approx(GIB)
