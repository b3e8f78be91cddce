"""Sampling of an evaluation where memory is short."""

import pytest

from trl_ext.evaluation import samples
from trl_ext.support.errors import UserError

ERROR = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("largest", "sizes"), [(64, [64]), (16, [64, 64, 32, 16]), (1, [64, 64, 32, 16, 8, 4, 2, 1]), (0, None)]
)
def test_a_batch_is_sampled_again_as_it_was_and_then_in_halves(largest, sizes, monkeypatch):
    tried, freed = [], []

    def sample(model, tokenizer, prompts, *, batch_size, seed, max_new_tokens):
        tried.append(batch_size)
        if batch_size > largest:
            raise RuntimeError(ERROR)
        return prompts

    monkeypatch.setattr(samples, "sample", sample)
    monkeypatch.setattr(samples, "release", lambda: freed.append(1))
    if sizes is None:
        expected = rf"^Out of memory while completions were sampled \({ERROR.replace('(', '.').replace(')', '.')}\): lower `--max_new"
        with pytest.raises(UserError, match=expected):
            samples._complete(None, None, [[5]], samples.Sampling())
        assert tried[-1] == 1
    else:
        assert samples._complete(None, None, [[5]], samples.Sampling()) == [[5]]
        assert tried == sizes and len(freed) == len(sizes) - 1


def test_other_errors_are_left_alone(monkeypatch):
    monkeypatch.setattr(samples, "sample", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        samples._complete(None, None, [[5]], samples.Sampling())
