"""TPO and TPO-L against the paper's equation and TRL's own trainer, and their relation to SimPO."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses


@pytest.mark.parametrize("name", ["tpo", "tpo_l"])
def test_the_equations(name):
    gamma = 0.7 if name == "tpo_l" else 0.0
    loss = losses.get(name, beta=0.3, tpo_alpha=0.4, **({"gamma": gamma} if gamma else {}))
    tensors = batch()
    value = loss(**read_by(loss, tensors)).losses
    for i in range(6):
        x = {key: tensors[key][i].item() for key in tensors if tensors[key].ndim}
        if name == "tpo":
            margin = 0.3 * (x["chosen_logps"] - x["rejected_logps"])
        else:
            means = (x["chosen_logps"] / x["chosen_lens"], x["rejected_logps"] / x["rejected_lens"])
            margin = 0.3 * (means[0] - means[1]) - 0.7
        expected = math.log(1 + math.exp(-margin)) - 0.4 * x["gold_logps"] / x["gold_lens"]
        assert value[i].item() == pytest.approx(expected, abs=1e-12)
    assert not loss.needs_reference and loss.columns == ("gold",) and loss.initial_value is None


def test_tpo_l_is_simpo_plus_the_likelihood_of_the_gold_completion():
    tensors = batch()
    tpo_l, simpo = losses.get("tpo-l", beta=2.0, gamma=0.5, tpo_alpha=0.3), losses.get("simpo", beta=2.0, gamma=0.5)
    gold = tensors["gold_logps"] / tensors["gold_lens"]
    expected = simpo(**read_by(simpo, tensors)).losses - 0.3 * gold
    torch.testing.assert_close(tpo_l(**read_by(tpo_l, tensors)).losses, expected)


@pytest.mark.parametrize("kind", ["sigmoid", "tpo-l"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_trls_trainer(kind, label_smoothing):
    """Its loss of a batch of logits with gold completions of equal lengths: it averages their likelihood over all tokens."""
    trainer = pytest.importorskip("trl.experimental.tpo").TPOTrainer
    generator = torch.Generator().manual_seed(3)
    size, vocabulary, prompt, lens = 4, 11, 2, torch.tensor([5, 3, 4, 2, 1, 4, 2, 5, 3, 3, 3, 3])
    ids = torch.randint(vocabulary, (3 * size, prompt + 5), generator=generator)
    places = torch.arange(prompt + 5)
    mask = ((places >= prompt) & (places < prompt + lens[:, None])).long()
    logits = torch.randn(*ids.shape, vocabulary, generator=generator, dtype=torch.float64, requires_grad=True)
    settings = {"beta": 0.6, "tpo_alpha": 0.3, "label_smoothing": label_smoothing}
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        loss_type=kind,
        tpo_l_gamma=0.4,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        **settings,
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    theirs = trainer._compute_loss(stub, lambda **_: SimpleNamespace(logits=logits), inputs, return_outputs=False)
    (their_gradient,) = torch.autograd.grad(theirs, logits)
    tokens = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    sums = dict(zip(("chosen", "rejected", "gold"), (tokens * mask[:, 1:]).sum(1).chunk(3), strict=True))
    tensors = {f"{side}_logps": value for side, value in sums.items()}
    tensors |= {f"{side}_lens": value for side, value in zip(sums, lens.chunk(3), strict=True)}
    loss = losses.get("tpo_l", gamma=0.4, **settings) if kind == "tpo-l" else losses.get("tpo", **settings)
    out = loss(**read_by(loss, tensors))
    (gradient,) = torch.autograd.grad(out.losses.mean(), logits)
    torch.testing.assert_close(out.losses.mean(), theirs, atol=1e-6, rtol=0, check_dtype=False)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-6, rtol=0)
    assert out.chosen_rewards.mean().item() == pytest.approx(stub._metrics["train"]["rewards/chosen"][0], abs=1e-6)
