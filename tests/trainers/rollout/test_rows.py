"""Passes over the completions of a rollout: packed and padded rows against each sequence alone, in plain transformers."""

import pytest
import torch
from trl.trainer.utils import shuffle_sequence_dict

from tests.batching.helpers import SIZES
from tests.trainers.helpers import intercept, lora, relative_difference
from tests.trainers.ppo.helpers import build, config
from tests.trainers.rollout.helpers import KINDS, TEMPERATURE, random_head, rows_of, small_model
from trl_ext import PPOTrainer
from trl_ext.batching import attention
from trl_ext.batching.packed import Tree
from trl_ext.trainers.common import forward
from trl_ext.trainers.rollout import order, token_ids

GROUPS = [
    (
        [5, 6, 7, 8, 9],
        [[11, 12, 13], [14], [], [11, 12, 15, 16, 17, 18]],
    ),  # of four, one empty, two with a common start
    ([21, 22], [[23, 24, 25, 26]]),
    ([31], [[32], [32], [33, 34]]),  # a prompt of one token, two completions that are equal
]
WIDTH = 6
TREES = [Tree(prompt, [completion]) for prompt, completions in GROUPS for completion in completions]


def alone(model, head=None):
    """Log-probs, entropies and head values of each sequence by itself: (B, WIDTH) each, with gradient."""
    tables = [torch.zeros(len(TREES), WIDTH) for _ in range(3)]
    for i, (prompt, (completion,)) in enumerate(TREES):
        output = model(input_ids=torch.tensor([prompt + completion]), output_hidden_states=True)
        before = slice(len(prompt) - 1, len(prompt) + len(completion) - 1)
        logps = (output.logits[0, before] / TEMPERATURE).log_softmax(-1)
        chosen = logps.gather(1, torch.tensor(completion, dtype=torch.long)[:, None])[:, 0]
        entropies = -(logps.exp() * logps).sum(-1)
        values = head(output.hidden_states[-1][0, before]) if head is not None else entropies
        tables = [
            torch.cat([t[:i], torch.nn.functional.pad(new, (0, WIDTH - len(new)))[None], t[i + 1 :]])
            for t, new in zip(tables, (chosen, entropies, values), strict=True)
        ]
    return tables


def gradient(loss, model):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_values_are_those_of_each_sequence_alone(kind, packing, capsys):
    rows, head = rows_of(kind, packing=packing), random_head()
    model = rows.runtime.model
    logps, entropies, values = alone(model, head)
    rows.prepare(TREES)
    assert rows.is_packed is packing
    with torch.no_grad():
        scored, valued = rows.score(model, TREES, WIDTH), rows.scalars(TREES, WIDTH, head)
    assert scored.aux_loss is None
    for found, expected in ((scored.logps, logps), (scored.entropies, entropies), (valued, values)):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=2e-5)

    direction = torch.randn(len(TREES), WIDTH, generator=torch.Generator().manual_seed(1))
    expected = gradient((direction * logps).sum() + (direction * values).sum(), model)
    scored, valued = rows.score(model, TREES, WIDTH), rows.scalars(TREES, WIDTH, head)
    found = gradient((direction * scored.logps).sum() + (direction * valued).sum(), model)
    assert relative_difference(found, expected) < 1e-5


def test_prompts_and_equal_completions_are_computed_once():
    rows = rows_of()
    rows.prepare(TREES)
    seen = []
    rows.runtime.base.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad():
        rows.score(rows.runtime.model, TREES, WIDTH)
    # Each prompt but its last token, which is repeated before each distinct completion that has tokens.
    assert seen == [(4 + 4 + 2 + 7) + (1 + 5) + (0 + 2 + 3)]


def test_rows_without_a_token_have_gradient_zero():
    rows = rows_of()
    rows.is_packed = True
    empty = [Tree([1, 2, 3], [[]]), Tree([4], [[]])]
    scored = rows.score(rows.runtime.model, empty, 3)
    assert scored.logps.tolist() == [[0, 0, 0], [0, 0, 0]] and scored.entropies.shape == (2, 3)
    found = gradient(scored.logps.sum() + rows.scalars(empty, 3, random_head()).sum(), rows.runtime.model)
    assert found and not any(g.any() for g in found.values())


def test_the_comparison_has_two_completions_whatever_the_rollout():
    several = [Tree([1, 2], [[3, 4]]), Tree([1, 2], [[5]]), Tree([1, 2], [[5]]), Tree([6], [[7]])]
    assert token_ids.comparable(several) == [Tree([1, 2], [[3, 4], [5]])]
    single = token_ids.comparable([Tree([1, 2], [[3, 4]]), Tree([6], [[7]])])
    assert single == [Tree([1, 2], [[3, 4], [7]]), Tree([6], [[7], [3, 4]])]
    for tree in token_ids.comparable([Tree([1], [[]]), Tree([1], [[]])]):  # all completions are masked
        assert len({*map(tuple, tree.completions)}) == 2 and all(tree.completions)


def test_token_ids_are_read_without_padding():
    batch = {
        "prompt_ids": torch.tensor([[0, 1, 2], [3, 4, 5]]),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[6, 7], [8, 0]]),
        "completion_mask": torch.tensor([[1, 1], [0, 0]]),  # the second was truncated, and is masked
    }
    assert token_ids.trees(batch) == [Tree([1, 2], [[6, 7]]), Tree([3, 4, 5], [[]])]
    ids, mask = (torch.cat([batch[f"prompt_{n}"], batch[f"completion_{n}"]], 1) for n in ("ids", "mask"))
    assert token_ids.from_sequences(ids, mask, 2) == token_ids.trees(batch)
    pairs = {name: torch.stack([value, value.flip(0)], 1) for name, value in batch.items() if "completion" in name}
    assert token_ids.trees(batch | pairs) == [Tree([1, 2], [[6, 7], []]), Tree([3, 4, 5], [[], [6, 7]])]


# Memory -------------------------------------------------------------------------------------------------------------


def test_a_pass_without_gradient_continues_in_shorter_rows(monkeypatch, capsys):
    rows = rows_of(row_tokens=4)
    rows.is_packed = True
    attention.switch(rows.runtime.base)
    run, sizes = forward.run, []

    def small(model, batch, **kwargs):
        size = batch["packed"].input_ids.numel()
        if size > 12:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        sizes.append(size)
        return run(model, batch, **kwargs)

    monkeypatch.setattr(forward, "run", small)
    with torch.no_grad():
        scored = rows.score(rows.runtime.model, TREES, WIDTH)
        torch.testing.assert_close(scored.logps, alone(rows.runtime.model)[0], rtol=1e-5, atol=2e-5)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("out of memory: cached memory was freed, and the pass continues with the same rows") == 1
    assert "out of memory: the pass continues, from now on with rows of up to" in printed
    assert max(sizes) <= 12 and rows.memory.row_tokens == 4  # the rows of updates stay as they were


def test_a_single_completion_that_does_not_fit_is_an_error(monkeypatch):
    rows = rows_of(row_tokens=4)
    rows.is_packed = True

    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    monkeypatch.setattr(forward, "run", fails)
    with (
        torch.no_grad(),
        pytest.raises(torch.OutOfMemoryError, match="A single completion of 11 tokens, prompt included"),
    ):
        rows.score(rows.runtime.model, TREES, WIDTH)


# The order of a rollout ---------------------------------------------------------------------------------------------


def test_a_shuffled_rollout_keeps_completions_of_a_prompt_together():
    ids = torch.tensor([[1, 1], [1, 1], [2, 2], [2, 2], [2, 2], [0, 1], [1, 1]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [0, 1], [1, 1]])
    batch = {"prompt_ids": ids, "prompt_mask": mask, "number": torch.arange(7), "names": [*"abcdefg"], "none": None}
    torch.manual_seed(0)
    shuffled = order.in_groups(batch | {"scale": torch.tensor(3.0)})
    found = shuffled["number"].tolist()
    assert sorted(found) == [*range(7)] and found != [*range(7)]
    text = "".join(shuffled["names"])
    assert "ab" in text and "cde" in text and shuffled["prompt_ids"].equal(ids[found])
    assert shuffled["none"] is None and shuffled["scale"] == 3


def test_a_rollout_of_different_prompts_is_shuffled_as_by_trl():
    batch = {"prompt_ids": torch.arange(12).view(6, 2), "prompt_mask": torch.ones(6, 2), "x": torch.arange(6)}
    torch.manual_seed(3)
    expected = shuffle_sequence_dict(batch)
    torch.manual_seed(3)
    assert order.in_groups(batch)["x"].equal(expected["x"])


# Training -----------------------------------------------------------------------------------------------------------

GROUPED = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.1,
}


def test_steps_of_packed_and_padded_rows_are_the_same(model, tmp_path, capsys):
    """Two rollouts, each learnt from twice in two steps, with the truncated completions masked."""
    given = {
        **GROUPED,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "max_steps": 6,
        "mask_truncated_completions": True,
    }
    masked = []

    def note(targets, batch, *args):
        masked.append(not batch["completion_mask"].any(1).all())
        return targets(batch, *args)

    trainers = []
    for packing in (True, False):
        trainers.append(build(model, config(tmp_path / str(packing), packing=packing, **given)))
        intercept(trainers[-1].update, "targets", note)
        trainers[-1].train()
    packed, padded = trainers
    assert packed.rows.is_packed and not padded.rows.is_packed
    assert len(packed.recorder.gradients) == 6 and any(masked)
    for found, expected in zip(packed.recorder.gradients, padded.recorder.gradients, strict=True):
        assert relative_difference(found, expected) < 1e-5
    for found, expected in zip(packed.recorder.logs, padded.recorder.logs, strict=True):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"step_time"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


def test_completions_of_a_prompt_stay_in_one_step(model, tmp_path):
    trainer = build(model, config(tmp_path, **GROUPED, steps_per_generation=4, max_steps=1))
    trainer.train()
    for batch in trainer._buffered_inputs:
        assert len(batch["prompt_ids"].unique(dim=0)) == 1


def test_the_first_update_on_a_rollout_has_ratio_one(model, tmp_path):
    ratios = []

    class Watched(PPOTrainer):
        def _score(self, batch):
            scored = super()._score(batch)
            ratios.append((scored.logps.detach() - batch["old_per_token_logps"])[batch["loss_mask"].bool()].exp())
            return scored

    build(model, config(tmp_path, **GROUPED, max_steps=1), cls=Watched).train()
    (ratio,) = ratios  # one row
    assert len(ratio) > 8 and (ratio - 1).abs().max() < 1e-6


def test_row_tokens_cut_a_step_into_rows_with_the_same_gradient(model, tmp_path):
    trainers, rows = [], []
    for tokens in ("auto", 20):
        trainer = build(model, config(tmp_path / str(tokens), **GROUPED, row_tokens=tokens, max_steps=1))
        intercept(trainer.rows.memory, "checkpoint_for", lambda call, size: rows.append(size) or call(size))
        trainer.train()
        trainers.append(trainer)
    whole, cut = trainers
    assert len(rows) > 4 and max(rows[2:]) <= 20  # the first two are the policy's and the critic's whole step
    assert relative_difference(cut.recorder.gradients[0], whole.recorder.gradients[0]) < 1e-5


def test_a_model_that_cannot_be_packed_is_trained_in_padded_rows(tmp_path, model, capsys):
    """A model that builds its attention in a way of its own: the run prints why, once, and trains."""
    folder = small_model(tmp_path / "model", model, "bloom", n_head=4, hidden_size=64, n_layer=2, pad_token_id=0)
    args = config(tmp_path / "run", **GROUPED, max_steps=2)
    trainer = build(folder, args, peft_config=lora(target_modules=["query_key_value"]))
    trainer.train()
    assert trainer.rows.is_packed is False and len(trainer.recorder.gradients) == 2
    sentence = "rows: padded and sorted by length; packing is off for this model: bloom builds its attention"
    assert " ".join(capsys.readouterr().out.split()).count(sentence) == 1
    for batch in trainer._buffered_inputs:  # log-probs of the rollout, against the model on each completion alone
        for tree, found in zip(token_ids.trees(batch), batch["ref_per_token_logps"], strict=True):
            prompt, (completion,) = tree
            with torch.no_grad(), trainer.model.disable_adapter():
                logits = trainer.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
            torch.testing.assert_close(found[: len(completion)], expected, rtol=1e-4, atol=1e-4)


def test_a_mixture_of_experts_keeps_its_auxiliary_loss_in_padded_rows(tmp_path, model, capsys):
    folder = small_model(tmp_path / "model", model, "mixtral", **SIZES, num_local_experts=4)
    args = config(tmp_path / "run", **GROUPED, max_steps=1)
    trainer = build(folder, args, peft_config=lora(target_modules=["q_proj"]))
    trainer.train()
    assert trainer.rows.is_packed is False and trainer.recorder.logs[0]["aux_loss"] > 0
    assert "sharing prompts would change the auxiliary loss" in " ".join(capsys.readouterr().out.split())
