"""Completions with tokens that are read and not learned, packed and padded: tensors of the loss against a plain model, token by token."""

import random
from itertools import chain

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, lora
from trl_ext.batching.mismatched import mismatched
from trl_ext.evaluation.scores import _only
from trl_ext.methods import METHODS
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.preference.examples import ExampleTokens

SIZE = 6
COLUMNS = {"paired": ("chosen", "rejected"), "unpaired": ("completion",)}


def trainer_for(kind, model, folder, **changes):
    """A trainer on tokenised examples of which about half of the completions' tokens are learned."""
    cls, config = METHODS[kind].classes()
    settings = {"per_device_train_batch_size": SIZE, "max_steps": 1, **changes}
    first = build(cls, config(**arguments(folder, **settings)), model, examples=pairs(SIZE), peft_config=lora())
    draw = random.Random(3)

    def mark(row):
        return {f"{name}_learned": [draw.random() < 0.5 for _ in row[f"{name}_ids"]] for name in COLUMNS[kind]}

    marked = first.train_dataset.map(mark)
    return build(cls, config(**arguments(folder, **settings)), model, examples=list(marked), peft_config=lora())


def summed(model, prompt, completion, flags, limit=24):
    """Σ log π of the learned tokens of a completion that is cut to `limit` tokens with its prompt, and their number."""
    ids = torch.tensor([(prompt + completion)[:limit]])
    logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    kept = torch.tensor(flags[: len(logps)], dtype=torch.bool)
    return logps[kept].sum(), int(kept.sum())


@pytest.mark.parametrize(
    ("kind", "packing", "row_tokens"), [("paired", True, 60), ("paired", False, 10_000), ("unpaired", True, 10_000)]
)
def test_tensors_loss_and_gradient(kind, packing, row_tokens, tiny_model, tmp_path):
    loss = "simpo" if kind == "paired" else "kto"
    trainer = trainer_for(
        kind, tiny_model, tmp_path, packing=packing, row_tokens=row_tokens, loss=loss, reference_cache=False
    )
    rows = [dict(row) for row in trainer.train_dataset]
    trainer.model.eval()
    expected = {"lens": [], "logps": []}
    for name in COLUMNS[kind]:
        for row in rows:
            value, count = summed(trainer.model, row["prompt_ids"], row[f"{name}_ids"], row[f"{name}_learned"])
            expected["logps"].append(value)
            expected["lens"].append(count)
    if kind == "paired":
        means = (torch.stack(expected["logps"]) / torch.tensor(expected["lens"]).clamp(min=1)).chunk(2)
        value = -torch.nn.functional.logsigmoid(2.0 * (means[0] - means[1]) - 0.5).mean()
    else:

        def ratio(pair):
            args = pair["prompt_ids"], pair["completion_ids"], pair["completion_learned"]
            with trainer.model.disable_adapter(), torch.no_grad():
                before = summed(trainer.model, *args)[0]
            return summed(trainer.model, *args)[0] - before

        z = torch.stack([ratio(pair).detach() for pair in mismatched(rows)]).mean().clamp(min=0)
        signs = torch.tensor([1.0 if row["label"] else -1.0 for row in rows])
        value = (1 - torch.sigmoid(0.1 * signs * (torch.stack([ratio(row) for row in rows]) - z))).mean()
    trainer.model.zero_grad()
    value.backward()
    plain = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    found = trainer.step.run(rows).means()["loss"]
    assert trainer.rows.is_packed is packing
    assert found == pytest.approx(value.item(), abs=1e-5)
    own = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert own.keys() == plain.keys() and own
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, plain[name], atol=2e-5, rtol=1e-3, msg=name)


def test_the_reference_and_the_distributions_are_masked_too(tiny_model, tmp_path):
    trainer = trainer_for("paired", tiny_model, tmp_path, loss="tdpo", packing=True)
    rows = [dict(row) for row in trainer.train_dataset]
    tensors = trainer.evaluation.tensors(rows)
    for name in COLUMNS["paired"]:
        expected, divergences = [], []
        for row in rows:
            args = row["prompt_ids"], row[f"{name}_ids"], row[f"{name}_learned"]
            with torch.no_grad(), trainer.model.disable_adapter():
                expected.append(summed(trainer.model, *args)[0].item())
            divergences.append(_divergence(trainer.model, *args))
        assert sorted(tensors[f"ref_{name}_logps"].tolist()) == pytest.approx(sorted(expected), abs=1e-4)
        assert sorted(tensors[f"{name}_kl"].tolist()) == pytest.approx(sorted(divergences), abs=1e-4)


@torch.no_grad()
def _divergence(model, prompt, completion, flags, limit=24):
    ids = torch.tensor([(prompt + completion)[:limit]])
    now = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    with model.disable_adapter():
        before = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    each = (before.exp() * (before - now)).sum(-1)
    return each[torch.tensor(flags[: len(each)], dtype=torch.bool)].sum().item()


def test_a_cached_reference_holds_all_tokens(tiny_model, tmp_path, monkeypatch):
    """So a masked run and one that learns everything share it."""
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))
    masked = trainer_for("paired", tiny_model, tmp_path / "a", loss="dpo", packing=True)
    masked.train()
    rows = [{k: v for k, v in dict(row).items() if not k.endswith("_learned")} for row in masked.train_dataset]
    config = PairedPreferenceConfig(
        **arguments(tmp_path / "b", per_device_train_batch_size=SIZE, max_steps=1, loss="dpo")
    )
    whole = build(PairedPreferenceTrainer, config, tiny_model, examples=rows, peft_config=lora())
    whole.train()
    assert masked.reference_counts()[1] > 0 and whole.reference_counts()[1] == 0


@pytest.mark.parametrize(
    ("prompt", "mode", "limit", "expected"),
    [
        (2, "keep_start", None, "abcdef"),
        (2, "keep_start", 5, "abc"),
        (0, "keep_start", 4, "bcd"),
        (2, "keep_start", 2, ""),
        (2, "keep_end", None, "abcdef"),
        (2, "keep_end", 5, "cdef"),
        (2, "keep_end", 7, "abcdef"),
        (0, "keep_end", 4, "def"),
    ],
)
def test_marks_of_the_tokens_that_are_left_after_a_cut(prompt, mode, limit, expected):
    """As TRL's collator cuts: the first token of what is left is read only."""
    args = type("Args", (), {"max_length": limit, "truncation_mode": mode})
    tokens = ExampleTokens(args, ("completion_ids",), ())
    assert "".join(tokens._scored([0] * prompt, list("abcdef"))) == expected


def test_marks_of_a_row_that_trls_collator_cuts(tiny_model, tmp_path):
    trainer = trainer_for("paired", tiny_model, tmp_path, packing=False, truncation_mode="keep_end", max_length=8)
    rows = [dict(row) for row in trainer.train_dataset]
    trainer.references.open()
    trainer.rows.prepare(rows)
    batch = trainer.rows.collate(rows)
    sequences = [
        (row["prompt_ids"], row[f"{name}_ids"], row[f"{name}_learned"])
        for name in ("chosen", "rejected")
        for row in rows
    ]
    assert any(len(prompt + completion) > 8 for prompt, completion, _ in sequences)
    expected = [flags[max(len(flags) - 7, 0) :] for _, _, flags in sequences]
    counts = batch["completion_mask"][:, 1:].sum(dim=1).tolist()
    assert counts == list(map(len, expected)) and batch["learned"].tolist() == list(chain(*expected))


def test_scores_of_an_evaluation_leave_masked_tokens_out():
    import numpy as np

    from trl_ext.evaluation.scores import Scored

    kept = _only(Scored(np.arange(3.0), -np.arange(3.0)), [True, False, True])
    assert kept.policy.tolist() == [0, 2] and kept.reference.tolist() == [0, -2]
