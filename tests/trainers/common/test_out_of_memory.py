"""What is said and what is repeated after memory ran out."""

import pytest

from trl_ext.support.errors import UserError
from trl_ext.trainers.common import out_of_memory


def test_work_is_repeated_unchanged_once_in_an_interval():
    unchanged = out_of_memory.Unchanged(3)
    allowed = []
    for _ in range(7):
        unchanged.begin()
        allowed.append((unchanged.is_allowed(), unchanged.is_allowed()))
    assert allowed == [(True, False), (False, False), (False, False)] * 2 + [(True, False)]


def test_the_phase_is_named_and_a_librarys_error_is_quoted():
    with pytest.raises(UserError) as raised, out_of_memory.reported("in training", "lower `max_length`"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")
    assert str(raised.value) == (
        "Out of memory in training (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`): "
        "lower `max_length`."
    )
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory.reported("in training", "lower `max_length`"):
        raise RuntimeError("shapes cannot be multiplied")
