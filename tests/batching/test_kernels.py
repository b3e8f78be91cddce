"""Both kernels against attention under an explicit mask built from the definition of a packed row."""

import pytest
import torch
import torch.nn.attention.varlen
from transformers import LlamaConfig, MistralConfig

from tests.batching.helpers import SIZES, build, in_one_row
from trl_ext.batching import attention, kernels, proof
from trl_ext.batching.packed import Tree, pack

TREES = [Tree([5] * 9, [[6] * 5, [7] * 8]), Tree([8], [[9] * 3, [9] * 4]), Tree([4] * 12, [[3] * 6, [2]])]
HEADS, GROUPS, WIDTH, WINDOW = 4, 2, 16, 5


def visible(row, window: int | None) -> torch.Tensor:
    """(T, T): whether a query sees a key, from segments and positions alone."""
    seen = torch.zeros(row.input_ids.shape[1], row.input_ids.shape[1], dtype=torch.bool)
    for start, stop, prefix in row.layout.segments:
        seen[start:stop, start:stop] = True
        if prefix is not None:
            seen[start:stop, slice(*prefix)] = True
    distance = row.layout.positions[:, None] - row.layout.positions[None, :]
    return seen & (distance >= 0) & (distance < (window or 10**9))


def by_definition(query, key, value, row, window):
    key, value = (tensor.repeat_interleave(GROUPS, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(2, 3)) * 0.3
    scores = scores.masked_fill(~visible(row, window).to(scores.device), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def documented_varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa=False):
    """What PyTorch documents for its variable-length kernel, one sequence at a time; its kernel takes grouped heads."""
    assert starts_q.dtype == starts_k.dtype == torch.int32 and window_size[1] == 0
    outputs = []
    for i in range(len(starts_q) - 1):
        one_q, one_k, one_v = (
            tensor[starts[i] : starts[i + 1]].transpose(0, 1)
            for tensor, starts in ((q, starts_q), (k, starts_k), (v, starts_k))
        )
        assert one_q.shape[1] <= longest_q and one_k.shape[1] <= longest_k
        one_k, one_v = (tensor.repeat_interleave(len(one_q) // len(one_k), dim=0) for tensor in (one_k, one_v))
        scores = one_q @ one_k.transpose(1, 2) * (one_q.shape[-1] ** -0.5 if scale is None else scale)
        place = torch.arange(one_q.shape[1])[:, None] + one_k.shape[1] - one_q.shape[1]
        distance = place - torch.arange(one_k.shape[1])[None, :]
        hidden = (distance < 0) | ((distance > window_size[0]) if window_size[0] >= 0 else torch.tensor(False))
        outputs.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ one_v).transpose(0, 1))
    return torch.cat(outputs)


def varlen_of_2_12(q, k, v, *sequences, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False):
    """As PyTorch 2.12 and later have it: grouped heads have to be asked for."""
    if not enable_gqa and q.shape[1] != k.shape[1]:
        raise ValueError("Expect query and key/value to have the same number of heads")
    return of_given_heads(q, k, v, *sequences, scale=scale, window_size=window_size)


def varlen_of_2_11(q, k, v, *sequences, return_aux=None, scale=None, window_size=(-1, -1)):
    """As PyTorch 2.11 has it: heads are handed to the kernel as they are."""
    return of_given_heads(q, k, v, *sequences, scale=scale, window_size=window_size)


def of_given_heads(q, k, v, *sequences, **settings):
    """Keys and values that were expanded to the heads of the queries would take their memory as often."""
    assert (q.shape[1], k.shape[1], v.shape[1]) == (HEADS, HEADS // GROUPS, HEADS // GROUPS)
    return documented_varlen(q, k, v, *sequences, **settings)


def varlen_of_2_10(q, k, v, starts_q, starts_k, longest_q, longest_k, is_causal=False, return_aux=None):
    raise AssertionError("it knows neither scale nor window")


def tensors(length: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, WIDTH) for heads in (HEADS, HEADS // GROUPS, HEADS // GROUPS)]
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def attend(kernel: str, inputs, row, window):
    mask = attention.SegmentMask(row.layout, lambda b, h, q, k: (k > q - window) if window else k <= q, window)
    return attention._attend(kernel, *inputs, mask, scaling=0.3, sliding_window=window)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize(
    ("kernel", "provided"),
    [
        (kernels.SEGMENTS, documented_varlen),
        (kernels.VARLEN, varlen_of_2_12),
        (kernels.VARLEN, varlen_of_2_11),
    ],
)
def test_values_and_gradients_are_those_of_the_explicit_mask(kernel, provided, window, monkeypatch):
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", provided)
    monkeypatch.setattr(kernels, "VARLEN_DTYPES", (torch.float32,))
    row = pack(TREES)
    inputs = tensors(row.input_ids.shape[1])
    direction = torch.randn(1, row.input_ids.shape[1], HEADS, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = by_definition(*inputs, row, window)
    gradients = torch.autograd.grad((expected * direction).sum(), inputs)
    with attention.count_masks() as used:
        found = attend(kernel, inputs, row, window)
    assert used.kernels == {kernel}
    assert torch.allclose(found, expected, atol=1e-5)
    for mine, right in zip(torch.autograd.grad((found * direction).sum(), inputs), gradients, strict=True):
        assert torch.allclose(mine, right, atol=1e-5)


@pytest.mark.parametrize(
    "family", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=7)], ids=["full", "window"]
)
def test_a_whole_model_computes_the_same_with_both(family, monkeypatch):
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", documented_varlen)
    monkeypatch.setattr(kernels, "VARLEN_DTYPES", (torch.float32,))
    model = build(family)
    found = {}
    for kernel in (kernels.SEGMENTS, kernels.VARLEN):
        attention.switch(model, kernel)
        with attention.count_masks() as used:
            found[kernel] = in_one_row(model, pack(TREES))
        assert used.kernels == {kernel}
    assert torch.allclose(found[kernels.VARLEN], found[kernels.SEGMENTS], atol=2e-5)


def test_chunked_rules_wide_heads_dropout_and_float32_are_left_to_segments(monkeypatch):
    row = pack(TREES)
    inputs = tensors(row.input_ids.shape[1])
    mask = attention.SegmentMask(row.layout, lambda b, h, q, k: k // 4 == q // 4, 4)
    for allowed, arguments in (
        ((torch.float32,), {}),  # a chunked rule: no `sliding_window` of that size
        ((torch.float32,), {"sliding_window": 4, "dropout": 0.1}),
        ((torch.bfloat16,), {"sliding_window": 4}),
    ):
        monkeypatch.setattr(kernels, "VARLEN_DTYPES", allowed)
        with attention.count_masks() as used:
            attention._attend(kernels.VARLEN, *inputs, mask, **arguments)
        assert used.kernels == {kernels.SEGMENTS}


def test_queries_that_autocast_left_in_float32_are_cast_like_the_values():
    row = pack(TREES)
    query, key, value = tensors(row.input_ids.shape[1])
    found = attend(kernels.SEGMENTS, (query, key, value.bfloat16()), row, None)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), by_definition(query, key, value, row, None), atol=3e-2)


def backward_of(node) -> set[str]:
    """Names of the functions that the backward pass from `node` runs."""
    return set() if node is None else {node.name()}.union(*(backward_of(before) for before, _ in node.next_functions))


def test_no_segment_fills_a_gradient_of_the_whole_row():
    # The backward pass of a slice does, so that its time grows with the square of the row's segments.
    row = pack(TREES)
    names = backward_of(attend(kernels.SEGMENTS, tensors(row.input_ids.shape[1]), row, None).grad_fn)
    assert "SliceBackward0" not in names and "SplitWithSizesBackward0" in names


def test_what_may_run_depends_on_device_and_dtype():
    cpu = torch.device("cpu")
    assert kernels.usable(cpu, torch.bfloat16) == (kernels.SEGMENTS,)
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        assert kernels.usable(torch.device("cuda"), torch.bfloat16) == (kernels.VARLEN, kernels.SEGMENTS)
        assert kernels.usable(torch.device("cuda"), torch.float32) == (kernels.SEGMENTS,)


@pytest.mark.parametrize(
    ("provided", "expected"),
    [
        (varlen_of_2_12, (kernels.VARLEN, kernels.SEGMENTS)),
        (varlen_of_2_11, (kernels.VARLEN, kernels.SEGMENTS)),
        (varlen_of_2_10, (kernels.SEGMENTS,)),
    ],
)
def test_what_may_run_depends_on_what_the_kernel_takes(provided, expected, monkeypatch):
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", provided)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(torch.version, "hip", None)
    assert kernels.usable(torch.device("cuda"), torch.bfloat16) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel runs on CUDA only")
@pytest.mark.parametrize("window", [None, WINDOW])
def test_the_real_kernel_on_a_gpu(window):
    row = pack(TREES)
    inputs = tensors(row.input_ids.shape[1], "cuda", torch.bfloat16)
    expected = by_definition(*(tensor.float() for tensor in inputs), row, window)
    gradients = torch.autograd.grad(expected.sum(), inputs)
    found = attend(kernels.VARLEN, inputs, row.to("cuda"), window)
    assert torch.allclose(found.float(), expected, atol=2e-2)
    for mine, right in zip(torch.autograd.grad(found.float().sum(), inputs), gradients, strict=True):
        assert (mine - right).float().norm() < 2e-2 * right.float().norm()


@pytest.mark.parametrize("fault", [None, "raises", "wrong"])
def test_the_backward_pass_of_a_kernel_is_proved_too(fault, monkeypatch):
    class Faulty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if fault == "raises":
                raise RuntimeError("no backward for this head dimension")
            return gradient * (2 if fault == "wrong" else 1)

    monkeypatch.setattr(
        torch.nn.attention.varlen, "varlen_attn", lambda *a, **k: Faulty.apply(documented_varlen(*a, **k))
    )
    monkeypatch.setattr(kernels, "VARLEN_DTYPES", (torch.float32,))
    model = build(LlamaConfig(**SIZES))
    attention.switch(model, kernels.VARLEN)
    with torch.no_grad():
        outcome = proof.prove_gradient(
            lambda row: in_one_row(model, row).sum(dim=1),
            pack([TREES[0]]),
            torch.device("cpu"),
            proof.Outcome(None, "values agree"),
        )
    expected = {None: None, "raises": "no backward for this head dimension", "wrong": "its gradients differ"}[fault]
    if expected is None:
        assert outcome.reason is None and "gradients by a relative" in outcome.measured
    else:
        assert expected in outcome.reason
