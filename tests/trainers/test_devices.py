"""No tensor of a step meets one of another device, on a GPU that is simulated."""

import functools
import inspect
import random
from collections import Counter

import pytest
import torch

from tests.conftest import pairs
from tests.simulated_gpu import DEVICE, OnGPU, TwoDevicesError, moved, simulated_gpu, transfers
from tests.trainers.helpers import arguments, build
from tests.trainers.ppo import helpers as rollouts
from trl_ext import OnlinePreferenceConfig, OnlinePreferenceTrainer, PPOConfig, PPOTrainer
from trl_ext.batching.transfer import to_device
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

PPO = (PPOTrainer, PPOConfig)
ROLLOUTS = {
    "kl in the reward": (*PPO, {}),
    "kl in the loss": (*PPO, {"kl_placement": "loss", "kl_estimator": "k2"}),
    "online": (OnlinePreferenceTrainer, OnlinePreferenceConfig, {"num_generations": 2}),
}
PLAIN = {"packing": False, "reference_cache": False}
CASES = {
    "packed": {"loss": "dpo", "reference_cache": False},
    "padded": {"loss": "dpo", **PLAIN},
    "packed, cached": {"loss": "dpo"},
    "padded, cached": {"loss": "dpo", "packing": False},
    "several rows, recomputed": {"loss": "dpo", "row_tokens": 64, "gradient_checkpointing": True},
    "weighted, tails damped": {"loss": "dpo", "use_weighting": True, "ld_alpha": 0.5},
    "precomputed": {"loss": "dpo", "precompute_ref_log_probs": True},
    "no reference": {"loss": "simpo"},
    "averaged": {"loss": "ipo", "reference_cache": False, "row_tokens": 64},
    "combined": {"loss": {"dpo": 1.0, "sft": 0.2}, "row_tokens": 64},
    "coupled": {"loss": "aot", "row_tokens": 64},
    "coupled, of sorted sides": {"loss": "aot_unpaired", "row_tokens": 64},
    "unpaired": {"loss": "kto"},
    "unpaired, padded": {"loss": "kto", **PLAIN},
    "unpaired, precomputed": {"loss": "kto", "precompute_ref_log_probs": True},
}


PER_ROW, PER_STEP = 3, 5
"""Transfers between the devices that a row and a step may take."""
OF_MASKS = 2
"""Of each forward pass over padded rows: transformers asks twice whether anything is padded."""


@pytest.mark.parametrize("operation", [torch.add, torch.mul, torch.matmul, lambda a, b: torch.stack((a, b))])
def test_the_simulated_gpu_refuses_a_second_device(operation):
    cpu = torch.ones(2, 2)
    with simulated_gpu():
        gpu = torch.full((2, 2), 3.0, device=DEVICE)
        assert operation(gpu, cpu.to(DEVICE)).tolist() == operation(torch.full((2, 2), 3.0), cpu).tolist()
        for operands in ((gpu, cpu), (cpu, gpu)):
            with pytest.raises(TwoDevicesError):
                operation(*operands)


def test_the_simulated_gpu_counts_what_makes_the_cpu_wait():
    places, mask = torch.tensor([1]), torch.tensor([True, False])
    with simulated_gpu():
        gpu, on_gpu, zero = mask.to(DEVICE), places.to(DEVICE), torch.zeros(2, device=DEVICE)
        waits = {
            "an item": lambda: gpu.sum().item(),
            "a condition": lambda: bool(gpu.any()),
            "a list": lambda: gpu.tolist(),
            "to the CPU": lambda: gpu.cpu(),
            "to the GPU": lambda: mask.to(DEVICE),
            "a new tensor": lambda: torch.tensor(1.0, device=DEVICE),
            "a mask": lambda: gpu[gpu],
            "a place on the CPU": lambda: gpu[places],
            "the places of a mask": lambda: gpu.nonzero(),
            "writing by a mask": lambda: zero.index_put((gpu,), torch.ones(1, device=DEVICE)),
        }
        runs_on = {
            "a place on the GPU": lambda: gpu[on_gpu],
            "selecting": lambda: gpu.index_select(0, on_gpu),
            "writing": lambda: zero.index_put((on_gpu,), zero[:1]),
            "where": lambda: zero.where(gpu, 0.0).sum(),
            "zeros": lambda: torch.zeros(3, device=DEVICE),
            "a slice": lambda: gpu[:1],
        }
        counts = {}
        for name, operation in (waits | runs_on).items():
            with transfers() as found:
                operation()
            counts[name] = len(found)
    assert counts == dict.fromkeys(waits, 1) | dict.fromkeys(runs_on, 0)


def test_the_simulated_gpu_knows_what_cuda_allows():
    number, place = torch.tensor(2.0), torch.tensor([1])
    with simulated_gpu():
        gpu = torch.tensor([1.0, 3.0], device=DEVICE)
        assert (gpu * number).tolist() == [2.0, 6.0]
        assert gpu[place].tolist() == [3.0]
        assert gpu.cpu().add(torch.ones(2)).tolist() == [2.0, 4.0]
        assert isinstance(gpu.add_(number), OnGPU) and gpu.tolist() == [3.0, 5.0]
        for refused in (
            lambda: torch.stack((gpu.sum(), number)),
            lambda: torch.ones(2)[place.to(DEVICE)],
            lambda: number.add_(gpu.sum()),
        ):
            with pytest.raises(TwoDevicesError):
                refused()


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_step_and_an_evaluation_stay_on_the_gpu(settings, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))  # empty: the first step fills it, the second reads it
    is_unpaired = settings["loss"] == "kto"
    cls = UnpairedPreferenceTrainer if is_unpaired else PairedPreferenceTrainer
    config = UnpairedPreferenceConfig if is_unpaired else PairedPreferenceConfig
    trainer, on_cpu = (
        build(cls, config(**arguments(tmp_path, **settings)), tiny_model, examples=pairs(8)) for _ in range(2)
    )
    examples = list(trainer.train_dataset)
    with moved(trainer):
        losses = [trainer.training_step(trainer.model, examples).item()]
        losses += [step_with_few_transfers(trainer, examples)]
        if trainer.references.cache is not None:
            monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "another cache"))
            trainer.references.cache = trainer.references.new_cache()
            trainer.model.zero_grad()
            losses += [step_with_few_transfers(trainer, examples)]  # fills the cache
        losses += [trainer.prediction_step(trainer.model, examples, prediction_loss_only=True)[0].item()]
    assert trainer.rows.is_packed == settings.get("packing", True)
    # No optimizer ran: the second step is the first again.
    loss = on_cpu.training_step(on_cpu.model, examples).item()
    evaluated = on_cpu.prediction_step(on_cpu.model, examples, prediction_loss_only=True)[0].item()
    assert losses == pytest.approx([*[loss] * (len(losses) - 1), evaluated], rel=1e-4)
    torch.testing.assert_close(gradients_on_gpu(trainer), gradients(on_cpu), rtol=1e-3, atol=1e-5)


def step_with_few_transfers(trainer, examples) -> float:
    """The loss of a step. Reading it or a metric, and every transfer to the GPU, makes the CPU wait."""
    rows = []

    def collate(original, row):
        rows.append(row)
        return original(row)

    with pytest.MonkeyPatch.context() as patch, transfers() as found:
        patch.setattr(trainer.rows, "collate", functools.partial(collate, trainer.rows.collate))
        loss = trainer.training_step(trainer.model, examples)
        trainer._get_grad_norm(trainer.model, loss)  # before the optimizer, any number on the GPU
    of_masks = [transfer for transfer in found if "transformers/masking_utils" in transfer]
    assert len(rows) > 0 and len(of_masks) <= (0 if trainer.rows.is_packed else 2 * OF_MASKS * len(rows)), of_masks
    counted = [transfer for transfer in found if transfer not in of_masks]
    assert len(counted) <= PER_ROW * len(rows) + PER_STEP, Counter(counted)
    return loss.item()


@pytest.mark.parametrize("settings", [CASES["several rows, recomputed"], {"loss": "kto", "row_tokens": 64}], ids=str)
def test_the_next_row_is_collated_while_the_device_computes(settings, tiny_model, tmp_path, monkeypatch):
    """From the policy's forward pass over a row to the end of the next row's collation, the CPU waits for nothing."""
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))
    is_unpaired = settings["loss"] == "kto"
    cls = UnpairedPreferenceTrainer if is_unpaired else PairedPreferenceTrainer
    config = UnpairedPreferenceConfig if is_unpaired else PairedPreferenceConfig
    trainer = build(cls, config(**arguments(tmp_path, **settings)), tiny_model, examples=pairs(8))
    examples, rows, inspected = list(trainer.train_dataset), [], []
    of_callable = inspect.Signature.from_callable

    def sent(batch, device):
        before = len(waits)
        moved = to_device(batch, device)
        del waits[before:]  # it is from pinned memory, so that the CPU does not wait
        return moved

    with moved(trainer):
        trainer.training_step(trainer.model, examples)  # the proof of packing reads results
        monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "empty"))
        trainer.references.cache = trainer.references.new_cache()
        with pytest.MonkeyPatch.context() as patch, transfers() as waits:
            for module in ("batching.packed", "trainers.preference.examples", "trainers.common.forward"):
                patch.setattr(f"trl_ext.{module}.to_device", sent)
            patch.setattr(
                inspect.Signature, "from_callable", lambda f, **k: inspected.append(f) or of_callable(f, **k)
            )
            layer = trainer.model.get_base_model().model
            layer.register_forward_hook(lambda *_: rows.append(len(waits)) if torch.is_grad_enabled() else None)
            trainer.training_step(trainer.model, examples)
    assert len(rows) > 2
    assert waits[rows[0] : rows[-1]] == []  # the count stands still from the first row to the last
    assert inspected == []  # the signature of no function, which takes as long as a small kernel


@pytest.mark.parametrize(("cls", "config", "settings"), ROLLOUTS.values(), ids=ROLLOUTS)
def test_a_rollout_and_its_updates_stay_on_the_gpu(cls, config, settings, tiny_model, tmp_path, monkeypatch):
    """Sampling is transformers' own and left out: completions are given."""
    per_prompt = settings.get("num_generations", 1)
    sizes = {"output_dir": str(tmp_path), "per_device_train_batch_size": 4}
    trainer = rollouts.build(tiny_model, config(**{**rollouts.ROLLOUT, **sizes, **settings}), cls=cls)
    trainer.state.max_steps = 3  # as `train` sets it
    chance = random.Random(0)

    def sample(prompts, *args, **kwargs):
        return [[chance.randrange(4, 100) for _ in range(chance.randint(1, 6))] for _ in prompts]

    monkeypatch.setattr(trainer, "_generate_single_turn", sample)
    prompts = [{"prompt": prompt} for prompt in rollouts.PROMPTS[:4] for _ in range(per_prompt)]
    with moved(trainer):
        trainer.model.train()
        batch = trainer._generate_and_score_completions(prompts)
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        trainer.update.learn(tensors, accumulation=2)
        trainer.update.close("train")
    found = gradients_on_gpu(trainer).values()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found)


def gradients(trainer):
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


def gradients_on_gpu(trainer):
    """Of all that trains, the numbers of its gradient, which lies on the GPU."""
    found = gradients(trainer)
    assert found and all(isinstance(gradient, OnGPU) for gradient in found.values())
    return {name: gradient.values for name, gradient in found.items()}
