"""Tiles of TRL's fused LM head on a CPU."""

import pytest
import torch
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

from trl_ext.batching.head import TILE, small_tiles


@pytest.fixture
def tiles(monkeypatch):
    """Tokens of every tile that is computed."""
    seen = {"forward": [], "backward": []}
    for name, sizes in seen.items():
        fold = getattr(chunked_logprob, f"_{name}_tile")

        def watched(tile, *args, fold=fold, sizes=sizes, **kwargs):
            sizes.append(len(tile))
            return fold(tile, *args, **kwargs)

        monkeypatch.setattr(chunked_logprob, f"_{name}_tile", watched)
    return seen


def test_small_tiles_give_the_log_probabilities_and_gradients_of_full_logits(tiles):
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 16, requires_grad=True), torch.randn(50, 16)
    targets, upstream = torch.randint(50, (300,)), torch.randn(300)
    cpu = torch.device("cpu")
    with small_tiles(cpu):
        found = ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32)[0]
    with small_tiles(cpu):
        found.backward(upstream)
    exact = hidden.detach().double().requires_grad_()
    expected = (exact @ weight.double().T).log_softmax(-1)[torch.arange(300), targets]
    expected.backward(upstream.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    assert set(tiles["forward"]) == set(tiles["backward"]) == {TILE, 300 % TILE}


def test_tiles_are_trls_elsewhere():
    before = chunked_logprob.TOKEN_CHUNK_SIZE
    with small_tiles(torch.device("cuda")):
        assert before == chunked_logprob.TOKEN_CHUNK_SIZE
    with pytest.raises(ZeroDivisionError), small_tiles(torch.device("cpu")):
        raise ZeroDivisionError
    assert before == chunked_logprob.TOKEN_CHUNK_SIZE > TILE
