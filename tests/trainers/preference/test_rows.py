"""A step's gradient does not depend on how memory cuts it into rows, for any loss."""

import copy
import itertools

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, relative_difference, swap_loss
from trl_ext import losses
from trl_ext.batching import attention, padded
from trl_ext.batching.padded import ROW_COST, cut_rows
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

MIXES = [{"dpo": 1.0, "sft": 0.2}, {"aot": 0.5, "ipo": 1.0}]
EXAMPLES = 8


@pytest.fixture(scope="module")
def trainers(tiny_model, tmp_path_factory):
    """A trainer for each kind of examples; the loss is swapped on it. No cache, so that every cut computes its reference."""
    settings = arguments(tmp_path_factory.mktemp("rows"), per_device_train_batch_size=EXAMPLES, reference_cache=False)
    unpaired = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs(EXAMPLES)
        for side in ("chosen", "rejected")
    ]
    golds = zip(pairs(EXAMPLES), pairs(EXAMPLES, seed=5), strict=True)
    paired = [{**row, "gold": gold["chosen"], "margin": 0.25 * i} for i, (row, gold) in enumerate(golds)]
    makes = {name: PairedPreferenceConfig(**settings, loss=name) for name in ("rpo", "tpo")}
    return {
        "pairs": build(PairedPreferenceTrainer, makes["rpo"], tiny_model, examples=paired),
        "with gold": build(PairedPreferenceTrainer, makes["tpo"], tiny_model, examples=paired),
        "labelled": build(
            UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**settings), tiny_model, examples=unpaired
        ),
    }


def trainer_of(trainers, loss):
    kind = "with gold" if "gold" in loss.columns else "pairs" if loss.paired else "labelled"
    swap_loss(trainers[kind], loss)
    return trainers[kind]


def gradients(trainer, examples, row_tokens):
    trainer.args.row_tokens = row_tokens
    trainer._metrics["train"].clear()
    swap_loss(trainer, trainer.loss)  # running values as before the first step
    for _ in range(2 if trainer.loss.initial_state else 1):  # the second step reads those that the first one left
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, copy.deepcopy(examples))
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items() if name != "num_tokens"}
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.item(), metrics, found


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", [*losses.available(), *MIXES], ids=str)
def test_one_three_or_eight_rows_give_the_same_gradient(name, is_packed, trainers, monkeypatch):
    monkeypatch.setattr(padded, "ROW_COST", 10_000)  # as few rows as fit
    trainer = trainer_of(trainers, losses.get(name))
    trainer.rows.is_packed = is_packed
    attention.switch(trainer.model.get_base_model())
    examples = list(trainer.train_dataset)[:EXAMPLES]
    tokens = sum(trainer.tokens.tree(example).tokens for example in examples)
    longest = max(map(trainer.tokens.length, examples)) * trainer.tokens.per_example
    cuts = {1: tokens, 3: -(-tokens // 3) + 8, 8: 1} if is_packed else {1: longest * EXAMPLES, 3: longest * 3, 8: 1}
    counts = []
    results = []
    for row_tokens in cuts.values():
        trainer.args.row_tokens = row_tokens
        counts.append(len(trainer.rows.cut(examples)))
        results.append(gradients(trainer, examples, row_tokens))
    assert counts[0] == 1 and 2 <= counts[1] <= 4 and counts[2] == 8
    whole = results[0]
    assert torch.stack([g.abs().max() for g in whole[2].values()]).max() > 0
    for other in results[1:]:
        assert other[0] == pytest.approx(whole[0], rel=1e-5)
        assert relative_difference(other[2], whole[2]) < 1e-5
        assert other[1] == pytest.approx(whole[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", losses.available())
def test_packed_and_padded_rows_give_the_same_step(name, trainers):
    trainer = trainer_of(trainers, losses.get(name))
    attention.switch(trainer.model.get_base_model())
    examples = list(trainer.train_dataset)[:EXAMPLES]
    found = {}
    for is_packed in (True, False):
        trainer.rows.is_packed = is_packed
        found[is_packed] = gradients(trainer, examples, 150)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    assert relative_difference(found[True][2], found[False][2]) < 1e-5
    assert found[True][1] == pytest.approx(found[False][1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
def test_the_order_of_examples_in_a_step_is_irrelevant(is_packed, trainers):
    for name in ("dpo", "aot", "kto"):
        trainer = trainer_of(trainers, losses.get(name))
        trainer.rows.is_packed = is_packed
        attention.switch(trainer.model.get_base_model())
        examples = list(trainer.train_dataset)[:EXAMPLES]
        there = gradients(trainer, examples, 100)[2]
        back = gradients(trainer, examples[::-1], 100)[2]
        assert relative_difference(back, there) < 1e-5, name


@pytest.mark.parametrize("row_tokens", [64, 120, 10_000])
def test_padded_rows_are_the_best_cut_of_the_sorted_examples(row_tokens):
    lengths = sorted((5, 30, 12, 12, 7, 21, 3, 16), reverse=True)
    rows = cut_rows([{"n": n} for n in lengths[::-1]], lambda e: e["n"], sequences=2, row_tokens=row_tokens)
    assert [e["n"] for row in rows for e in row] == lengths
    sizes = [2 * len(row) * row[0]["n"] for row in rows]
    assert all(size <= row_tokens for size in sizes)

    def cost(cuts) -> float:
        pieces = [lengths[a:b] for a, b in itertools.pairwise((0, *cuts, 8))]
        sizes = [2 * len(piece) * piece[0] for piece in pieces]
        return sum(sizes) + ROW_COST * len(sizes) if max(sizes) <= row_tokens else float("inf")

    every_cut = (cuts for count in range(8) for cuts in itertools.combinations(range(1, 8), count))
    assert sum(sizes) + ROW_COST * len(rows) == min(map(cost, every_cut))


def test_an_example_longer_than_the_budget_gets_a_row_to_itself():
    rows = cut_rows([{"n": 50}, {"n": 4}, {"n": 4}], lambda e: e["n"], sequences=1, row_tokens=10)
    assert [[e["n"] for e in row] for row in rows] == [[50], [4, 4]]
