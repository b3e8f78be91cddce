"""Parts of the preference trainers by themselves, without a trainer."""

import contextlib
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.examples import ExampleTokens
from trl_ext.trainers.preference.retry import Retry

PAIR = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [10]}


def runtime(**accelerator) -> Runtime:
    args = SimpleNamespace(device=torch.device("cpu"), max_length=4)
    of_one = {"num_processes": 1, "is_main_process": True, "distributed_type": DistributedType.NO}
    accelerator = SimpleNamespace(**of_one | accelerator)
    return Runtime(nn.Linear(2, 2), args, accelerator, contextlib.nullcontext, lambda batch: batch)


@pytest.mark.parametrize(
    ("max_length", "sequences", "longest", "count"),
    [
        (None, [([5, 6, 7], [8, 9]), ([5, 6, 7], [10])], 5, 9),
        (4, [([5, 6, 7], [8]), ([5, 6, 7], [10])], 4, 8),
        (2, [([5, 6], []), ([5, 6], [])], 2, 4),
    ],
)
def test_sequences_are_cut_to_max_length(max_length, sequences, longest, count):
    tokens = ExampleTokens(SimpleNamespace(max_length=max_length), ("chosen_ids", "rejected_ids"), ())
    assert tokens.sequences([PAIR]) == sequences
    assert tokens.length(PAIR) == longest and tokens.count(PAIR) == count


def test_a_packed_row_returns_all_chosen_and_then_all_rejected():
    other = {"prompt_ids": [5, 6, 7], "chosen_ids": [10], "rejected_ids": [8, 9], "ref_chosen_logps": -1.0}
    tokens = ExampleTokens(
        SimpleNamespace(max_length=None, device=torch.device("cpu")),
        ("chosen_ids", "rejected_ids"),
        ("ref_chosen_logps",),
    )
    batch = tokens.pack([{**PAIR, "ref_chosen_logps": -2.0}, other])
    # The two distinct completions of the one prompt are computed once each.
    assert batch["packed"].completions.tolist() == [0, 1, 1, 0]
    assert batch["num_tokens"] == 5 + 4 + 4 + 5
    assert batch["ref_chosen_logps"].tolist() == [-2.0, -1.0]


def test_a_second_completion_comes_from_another_example():
    tokens = ExampleTokens(SimpleNamespace(max_length=None), ("completion_ids",), ("label",))
    one, same, other = ({"prompt_ids": [5], "completion_ids": ids} for ids in ([8], [8], [9]))
    assert tokens.with_two_completions(one, [one, same, other]).completions == [[8], [9]]


class Held(torch.Tensor):
    """A tensor that can be referenced weakly."""


def test_memory_that_runs_out_frees_activations_before_other_processes_are_told():
    """Their answer needs memory as well."""
    alive = []

    def reduce(flags, reduction):
        alive.append([reference() is not None for reference in references])
        return flags

    def forward():
        activation = torch.ones(4).as_subclass(Held)
        references.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    references = []
    parts = runtime(num_processes=2, device=torch.device("cpu"), reduce=reduce)
    with pytest.raises(RowsDoNotFitError) as caught, parts.locally():
        forward()
    assert caught.value.is_here and alive == [[False]]


def test_a_process_that_fitted_repeats_the_step_with_the_one_that_did_not():
    parts = runtime(num_processes=2, device=torch.device("cpu"), reduce=lambda flags, reduction: flags + 1)
    with pytest.raises(RowsDoNotFitError) as caught, parts.locally():
        pass
    assert not caught.value.is_here


def test_other_errors_pass_through():
    with pytest.raises(ValueError, match="own"), runtime().locally():
        raise ValueError("own")


def test_a_step_is_repeated_from_the_same_random_state_in_halved_rows(capsys):
    parts = runtime()
    memory = SimpleNamespace(row_tokens=8, recompute_everything=lambda: False, shorten_reference_rows=lambda: False)
    memory.shorten_rows = lambda tokens: setattr(memory, "row_tokens", tokens)
    rows = SimpleNamespace(
        size=len, cut=lambda e: [e[i : i + memory.row_tokens] for i in range(0, len(e), memory.row_tokens)]
    )
    retry = Retry(parts, rows, memory)
    drawn, lengths = [], []
    for attempt in retry.attempts(list(range(8))):
        with attempt as sums:
            drawn.append(torch.rand(()).item())
            lengths.append(max(map(len, rows.cut(list(range(8))))))
            sums.add("loss", torch.tensor(1.0), 1)
            if lengths[-1] > 2:
                raise RowsDoNotFitError
    assert lengths == [8, 8, 4, 2] and len(set(drawn)) == 1
    assert sums.means() == {"loss": 1.0} and retry.has_run_again
    assert capsys.readouterr().out.count("out of memory: the step is repeated") == 2


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_pending_errors_are_cleared_before_processes_compare_notes(device, monkeypatch):
    """The comparison runs on the device, whose next kernel would raise what an allocation of a library left behind."""
    done = []
    monkeypatch.setattr(f"{Runtime.__module__}.clear_pending_errors", done.append)
    monkeypatch.setattr(f"{Runtime.__module__}.on_any_process", lambda accelerator, flag: done.append(flag) or flag)
    parts = runtime()
    parts.args.device = torch.device(device)
    with parts.locally():
        pass
    with pytest.raises(RowsDoNotFitError) as raised, parts.locally():
        raise RuntimeError("CUDA driver error: out of memory")
    assert done == [False, *([torch.device("cuda")] if device == "cuda" else []), True]
    assert raised.value.is_here and raised.value.quoted == " (CUDA driver error: out of memory)"


def test_steps_that_fail_again_and_again_are_not_all_run_twice(monkeypatch):
    """In every second step memory runs out once: the first is repeated as it was, the second with shorter rows."""
    monkeypatch.setattr("trl_ext.trainers.preference.retry.INTERVAL", 5)
    memory = SimpleNamespace(row_tokens=64, recompute_everything=lambda: False, shorten_reference_rows=lambda: False)
    memory.shorten_rows = lambda tokens: setattr(memory, "row_tokens", tokens)
    rows = SimpleNamespace(size=lambda row: memory.row_tokens, cut=lambda examples: [examples])
    retry = Retry(runtime(), rows, memory)
    lengths = []
    for step in range(11):
        for number, attempt in enumerate(retry.attempts([1, 2])):
            with attempt:
                if step % 2 == 0 and number == 0:
                    raise RowsDoNotFitError
        lengths.append(memory.row_tokens)
    # Repeated unchanged in steps 0, 6; halved in 2, 4, 8, 10.
    assert lengths == [64, 64, 32, 32, 16, 16, 16, 16, 8, 8, 4]


def test_a_single_example_that_does_not_fit_ends_the_attempts():
    memory = SimpleNamespace(row_tokens=1, recompute_everything=lambda: False, shorten_reference_rows=lambda: False)
    retry = Retry(runtime(), SimpleNamespace(size=len, cut=lambda e: [[one] for one in e]), memory)
    with pytest.raises(torch.OutOfMemoryError, match="single example"):
        for attempt in retry.attempts([1, 2]):
            with attempt:
                raise RowsDoNotFitError
