"""Paged states stay paged through a checkpoint, with bitsandbytes' own optimizers on the simulated GPU."""

import io
from types import SimpleNamespace

import bitsandbytes as bnb
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map_only

from tests.simulated_gpu import OnGPU, simulated_gpu
from trl_ext.trainers.common import paged_states
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint

LARGE, SMALL = (400, 300), (4, 4)  # bitsandbytes pages the states of 100,000 weights and more

OPTIMIZERS = {
    "adamw 8bit": (bnb.optim.PagedAdamW8bit, ("state1", "state2")),
    "adamw 32bit": (bnb.optim.PagedAdamW32bit, ("state1", "state2")),
    "lion 8bit": (bnb.optim.PagedLion8bit, ("state1",)),
    "ademamix 8bit": (bnb.optim.PagedAdEMAMix8bit, ("state1", "state2")),
}


@pytest.fixture
def managed(monkeypatch):
    """Addresses of managed memory, which is CPU memory in PyTorch's eyes. To prefetch any other ends the process, as in CUDA."""
    addresses = {}

    def get_paged(*shape, dtype, device):
        tensor = torch.empty(shape, dtype=dtype, device="cpu")
        tensor.is_paged, tensor.page_deviceid = True, 0
        addresses[tensor.data_ptr()] = tensor
        return tensor

    def prefetch(tensor, to_cpu=False):
        if tensor.data_ptr() not in addresses:
            raise SystemExit(1)

    functional = bnb.functional
    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "prefetch_tensor", prefetch)
    monkeypatch.setattr(functional, "fill", lambda tensor, value: tensor.fill_(value))
    for update in ("optimizer_update_32bit", "optimizer_update_8bit_blockwise"):
        monkeypatch.setattr(functional, update, lambda *args, **kwargs: None)
    monkeypatch.setattr(functional.GlobalPageManager.get_instance(), "paged_tensors", [])
    return addresses


def stepped(cls):
    """An optimizer of a large and a small parameter, after a step that created its states."""
    parameters = [torch.nn.Parameter(OnGPU(torch.zeros(shape))) for shape in (LARGE, SMALL)]
    optimizer = cls(parameters, lr=0.1)
    step(optimizer)
    return optimizer


def step(optimizer):
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = OnGPU(torch.ones(parameter.shape))
    optimizer.step()


def fresh(cls):
    return cls([torch.nn.Parameter(OnGPU(torch.zeros(shape))) for shape in (LARGE, SMALL)], lr=0.1)


def file_of(optimizer):
    """What is read from a checkpoint's file: all tensors on the CPU, with the attributes they had."""
    file = io.BytesIO()
    torch.save(tree_map_only(OnGPU, lambda tensor: tensor.values, optimizer.state_dict()), file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


def values(tensor):
    return tensor.values if isinstance(tensor, OnGPU) else tensor


def states(optimizer):
    return [optimizer.state[parameter] for parameter in optimizer.param_groups[0]["params"]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_are_paged_after_loading_as_when_they_were_created(name, managed):
    cls, averages = OPTIMIZERS[name]
    with simulated_gpu():
        saved = stepped(cls)
        for state in states(saved):
            for average in averages:
                values(state[average]).copy_(torch.arange(state[average].numel()).view(state[average].shape) % 251)
        checkpoint = file_of(saved)

        unpaged = fresh(cls)
        unpaged.load_state_dict(checkpoint)
        assert all(isinstance(states(unpaged)[0][average], OnGPU) for average in averages)  # what bitsandbytes does

        loaded = fresh(cls)
        with paged_states.kept(SimpleNamespace(optimizer=loaded)):  # accelerate's wrapper
            loaded.load_state_dict(checkpoint)
        for mine, theirs in zip(states(loaded), states(saved), strict=True):
            assert mine.keys() == theirs.keys() and mine["step"] == 1
            for key, tensor in theirs.items():
                if isinstance(tensor, torch.Tensor):
                    assert torch.equal(values(mine[key]), values(tensor)), key
                    assert type(mine[key]) is type(tensor), key
        large, small = states(loaded)
        pages = [large[average] for average in averages]
        assert all(page.is_paged and managed[page.data_ptr()] is page for page in pages)
        assert [id(page) for page in loaded.page_mng.paged_tensors[-len(pages) :]] == list(map(id, pages))
        assert all(isinstance(small[average], OnGPU) for average in averages)
        assert "load_state_dict" not in vars(loaded)
        step(loaded)
        assert large["step"] == 2


def test_a_checkpoint_of_an_optimizer_that_is_not_paged_is_paged_too(managed):
    with simulated_gpu():
        checkpoint = file_of(stepped(bnb.optim.AdamW8bit))
        paged, plain = fresh(bnb.optim.PagedAdamW8bit), fresh(bnb.optim.AdamW8bit)
        for optimizer in (paged, plain):
            with paged_states.kept(optimizer):
                optimizer.load_state_dict(checkpoint)
            step(optimizer)
        assert states(paged)[0]["state1"].is_paged
        assert isinstance(states(plain)[0]["state1"], OnGPU)


def test_on_a_cpu_no_state_is_taken_for_paged(managed):
    with simulated_gpu():
        checkpoint = file_of(stepped(bnb.optim.PagedAdamW8bit))
    assert checkpoint["state"][0]["__bnb_optimizer_quant_state__"]["state1"].is_paged  # the mark is in the file
    optimizer = bnb.optim.PagedAdamW8bit([torch.nn.Parameter(torch.zeros(shape)) for shape in (LARGE, SMALL)])
    with paged_states.kept(optimizer):
        optimizer.load_state_dict(checkpoint)
    assert not any(hasattr(state["state1"], "is_paged") for state in states(optimizer))


def test_other_optimizers_load_as_ever():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    with paged_states.kept(optimizer):
        assert "load_state_dict" not in vars(optimizer)


def test_a_resumed_run_keeps_them_paged(managed):
    class Transformers:
        def _load_optimizer_and_scheduler(self, checkpoint):
            self.optimizer.load_state_dict(checkpoint)

    class Trainer(StagedCheckpoint, Transformers):
        def __init__(self, optimizer):
            self.args, self.optimizer = SimpleNamespace(), optimizer
            self.lr_scheduler = LambdaLR(optimizer, lambda step: 1.0)

    with simulated_gpu():
        checkpoint = file_of(stepped(bnb.optim.PagedAdamW32bit))
        trainer = Trainer(fresh(bnb.optim.PagedAdamW32bit))
        trainer._load_optimizer_and_scheduler(checkpoint)
        assert states(trainer.optimizer)[0]["state2"].is_paged
