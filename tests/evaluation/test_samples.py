"""Sampling of an evaluation where memory is short."""

import pytest

from trl_ext.evaluation import samples
from trl_ext.support.errors import UserError

ERROR = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def test_memory_that_runs_out_is_reported(monkeypatch):
    def sample(*args, **kwargs):
        raise RuntimeError(ERROR)

    monkeypatch.setattr(samples, "sample", sample)
    expected = rf"^Out of memory while completions were sampled \({ERROR.replace('(', '.').replace(')', '.')}\): lower `--max_new"
    with pytest.raises(UserError, match=expected):
        samples._complete(None, None, [[5]], samples.Sampling())


def test_other_errors_are_left_alone(monkeypatch):
    monkeypatch.setattr(samples, "sample", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        samples._complete(None, None, [[5]], samples.Sampling())
