"""The model that the harness asks: batches that fit into memory, and requests that are too long."""

import pytest

pytest.importorskip("lm_eval", reason="needs the extra `tasks`")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_ext.evaluation.tasks.model import LoadedModel
from trl_ext.support.errors import UserError

TEXTS = [("one word", " more"), ("a", " b c"), ("when your can said", " there"), ("use an each", " which she")]


@pytest.fixture
def loaded(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), AutoTokenizer.from_pretrained(tiny_model)


def requests(texts=TEXTS):
    return [Instance("loglikelihood", {}, text, i) for i, text in enumerate(texts)]


def generations():
    options = {"until": ["."], "max_gen_toks": 4, "do_sample": False}
    return [Instance("generate_until", {}, (context, options), i) for i, (context, _) in enumerate(TEXTS)]


def test_batches_are_halved_where_memory_runs_out(loaded, monkeypatch):
    model, tokenizer = loaded
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    expected = (
        plain.loglikelihood(requests(), disable_tqdm=True),
        plain.generate_until(generations(), disable_tqdm=True),
    )
    ticks, forward = [], type(model).forward

    def small(self, input_ids=None, **options):
        if input_ids.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model), "forward", small)
    halved = LoadedModel(
        model, tokenizer, 4, lambda items, total, title: (ticks.append(title) or item for item in items)
    )
    found = halved.loglikelihood(requests())
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected[0]], abs=1e-4)
    assert halved.batch_size == 1 and len(ticks) == len(TEXTS)
    halved.batch_size_per_gpu = 4
    assert halved.generate_until(generations()) == expected[1]


def test_memory_that_does_not_suffice_for_one_request(loaded, monkeypatch):
    model, tokenizer = loaded

    def never(self, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(type(model), "forward", never)
    with pytest.raises(UserError, match="Memory ran out for one request"):
        LoadedModel(model, tokenizer, 4, lambda items, total, title: items).loglikelihood(requests())


def test_requests_beyond_the_context_are_counted(loaded):
    """The tiny model's context has 512 tokens, and its tokenizer has a token per word."""
    model, tokenizer = loaded
    asked = LoadedModel(model, tokenizer, 4, lambda items, total, title: items)
    asked.loglikelihood(requests([("a " * 505, " b"), ("a " * 520, " b"), *TEXTS]))
    assert asked.cut == 1
    ids, mask = asked.tok_batch_encode(["a b c", "d", "e f g h"], left_truncate_len=3)
    expected = HFLM.tok_batch_encode(asked, ["a b c", "d", "e f g h"], left_truncate_len=3)
    assert ids.tolist() == expected[0].tolist() and mask.tolist() == expected[1].tolist() and asked.cut == 2
