"""Random steps through the real trainers: packed rows against padded ones."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, swap_loss
from trl_ext import losses
from trl_ext.batching import attention
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

MAX_LENGTH = 24
ROW_TOKENS = (1, 60, 1000)  # every example by itself; a few together; the whole step in one row
TOKENS = st.integers(4, 150)


@st.composite
def steps(draw):
    """(prompt, completion, other completion, label) per example, from so few of each that they recur."""
    # A prompt is empty where its text is and the tokenizer begins no sequence; a completion has at least one token.
    prompts = draw(st.lists(st.lists(TOKENS, max_size=30), min_size=1, max_size=4))
    completions = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=30), min_size=1, max_size=5))
    sides = st.sampled_from(completions)
    return draw(st.lists(st.tuples(st.sampled_from(prompts), sides, sides, st.booleans()), min_size=1, max_size=8))


LONG, SHORT, ONE = [*range(4, 24)], [30, 31, 32], [40]
ONE_TOKEN = [(ONE, ONE, [41], True), ([42], ONE, ONE, False)]
SAME_PROMPT = [(SHORT, [50 + i, 60 + i], [70 + i], i % 2 == 0) for i in range(5)]
SAME_EXAMPLE = [(SHORT, LONG, ONE, True)] * 4 + [(LONG, LONG, LONG, False)]
EMPTY_PROMPT = [([], SHORT, [33, 34], True), ([], SHORT, ONE, False), (SHORT, SHORT, ONE, True)]
CUT = [(LONG, LONG, SHORT, True), (LONG * 2, SHORT, ONE, False), (SHORT, LONG * 2, LONG, True)]


def many(test):
    """Twenty random steps, the same in every run, and the cases above."""
    for case in (ONE_TOKEN, SAME_PROMPT, SAME_EXAMPLE, EMPTY_PROMPT, CUT):
        for row_tokens in ROW_TOKENS:
            test = example(step=case, row_tokens=row_tokens)(test)
    test = given(step=steps(), row_tokens=st.sampled_from(ROW_TOKENS))(test)
    return settings(max_examples=20, derandomize=True, deadline=None)(test)


@pytest.fixture(scope="module")
def trainers(tiny_model, tmp_path_factory):
    """One trainer of each kind; the loss is swapped on it. No cache, so that both paths compute their reference."""
    common = arguments(tmp_path_factory.mktemp("random"), max_length=MAX_LENGTH) | {"reference_cache": False}
    unpaired = [{"prompt": p["prompt"], "completion": p["chosen"], "label": True} for p in pairs(8)]
    return {
        True: build(PairedPreferenceTrainer, PairedPreferenceConfig(**common), tiny_model),
        False: build(UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**common), tiny_model, examples=unpaired),
    }


def as_examples(step, paired: bool) -> list[dict]:
    if paired:
        return [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r, _ in step]
    return [{"prompt_ids": p, "completion_ids": c, "label": label} for p, c, _, label in step]


def log_probabilities(trainer, examples) -> list[torch.Tensor]:
    """Per-token log-probabilities of every completion, in the order of the examples."""
    found = [None] * len(examples)
    number = {id(one): i for i, one in enumerate(examples)}
    with torch.no_grad():
        for row in trainer.rows.cut(examples):
            _, fields = trainer.row_objective.score(trainer.model, trainer.rows.collate(row))
            for i, one in enumerate(row):
                mine = slice(i, None, len(row))  # chosen and rejected of the same pair
                found[number[id(one)]] = fields.per_token_logps[mine][fields.mask[mine].bool()]
    return found


def step_of(trainer, examples) -> tuple[float, torch.Tensor]:
    """Loss and flat gradient of the trainer's own training step."""
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, copy.deepcopy(examples)).item()
    return loss, torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "kto", "apo_zero_unpaired"])
def test_packed_and_padded_steps_agree(name, trainers):
    trainer = trainers[losses.get(name).paired]
    swap_loss(trainer, losses.get(name))
    attention.switch(trainer.model.get_base_model())
    norms = []

    @many
    def agree(step, row_tokens):
        trainer.args.row_tokens = row_tokens
        examples = as_examples(step, trainer.loss.paired)
        trainer.rows.is_packed = True
        packed, (packed_loss, packed_gradient) = log_probabilities(trainer, examples), step_of(trainer, examples)
        trainer.rows.is_packed = False
        padded, (padded_loss, padded_gradient) = log_probabilities(trainer, examples), step_of(trainer, examples)
        for one, other in zip(packed, padded, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, rtol=0, atol=1e-5)
        assert packed_loss == pytest.approx(padded_loss, rel=1e-5, abs=1e-5)
        # The second term is rounding where the gradients of identical completions cancel.
        assert (packed_gradient - padded_gradient).norm() < 1e-4 * padded_gradient.norm() + 5e-6
        norms.append(padded_gradient.norm())

    agree()
    assert torch.stack(norms).median() > 0.05  # what the rounding is compared with
