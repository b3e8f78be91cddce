"""The mode of a model after switching by flags, against that after its own `train`."""

import pytest
import torch
from torch import nn

from trl_ext.reference import modules


class FrozenNorm(nn.BatchNorm1d):
    """Stays in evaluation mode, as frozen norms do."""

    def train(self, mode: bool = True):
        return super().train(False)


def model(inner: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Dropout(0.5), inner), nn.ModuleList([nn.Linear(3, 3)]))


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm1d(3), lambda: FrozenNorm(3)], ids=["plain", "train of its own"])
@pytest.mark.parametrize("before", ["training", "evaluation", "a part in evaluation"])
def test_training_mode_is_that_of_the_model_s_own_train(make, before):
    found, expected = model(make()), model(make())
    for each in (found, expected):
        each.train(before != "evaluation")
        if before == "a part in evaluation":
            each[1].eval()
    modules.train(found)
    expected.train()
    assert [m.training for m in found.modules()] == [m.training for m in expected.modules()]
    assert found[0].training


def test_training_mode_reaches_a_module_that_was_added(monkeypatch):
    found = model(nn.Identity())
    modules.train(found)
    found[1].add_module("late", nn.Dropout(0.5).eval())
    modules.train(found)
    assert found[1].late.training


def test_training_mode_calls_no_method_of_the_modules(monkeypatch):
    found = model(nn.Identity()).eval()
    modules.modules_of(found)
    monkeypatch.setattr(nn.Linear, "train", None, raising=False)
    with pytest.raises(TypeError):
        found.train()
    monkeypatch.undo()
    modules.train(found)
    monkeypatch.setattr(nn.Module, "children", None)  # which `train` walks through
    modules.train(found)
    assert all(m.training for m in found.modules())
    assert torch.is_grad_enabled()
