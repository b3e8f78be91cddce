"""Trains on two processes that share a model sharded by FSDP2; run by `test_sharded.py` under torchrun.

Usage: two_processes_sharded.py MODEL OUTPUT
"""

import functools
import os
import sys
from pathlib import Path

import torch
from accelerate import state
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.conftest import pairs
from tests.trainers.helpers import Recorder, arguments, build, intercept, nf4
from trl_ext.support.errors import UserError
from trl_ext.support.sharded import trained_weights, whole
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` sets for the configuration file in docs/several-gpus.md."""

RUNS = {
    "dpo": {"max_grad_norm": 0.05, "gradient_checkpointing": True},
    "dpo, 4-bit base, padded rows": {"quantised": True, "packing": False},
    "dpo, bf16": {"bf16": True},
    "aot": {},
    "kto": {},
}


class WholeGradients(Recorder):
    """Keeps every step's gradients, gathered over processes, and the dtypes of the log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes = set()

    def score(self, original, model, batch):
        tensors, fields = original(model, batch)
        self.dtypes.add(fields.per_token_logps.dtype)
        return tensors, fields

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append({n: whole(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None})


def shard_on_cpus() -> None:
    """Have accelerate shard over CPU processes too, which it does over accelerators only."""
    original = state.AcceleratorState.__init__

    def initialise(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    state.AcceleratorState.__init__ = initialise


def trainer_of(name: str, model: str, output: str, world: int, **settings):
    loss, quantised = name.partition(",")[0], settings.pop("quantised", False)
    is_paired = loss != "kto"
    cls = PairedPreferenceTrainer if is_paired else UnpairedPreferenceTrainer
    config_class = PairedPreferenceConfig if is_paired else UnpairedPreferenceConfig
    config = config_class(
        **arguments(output, per_device_train_batch_size=4 // world, gradient_accumulation_steps=2) | settings,
        loss=loss,
        row_tokens=10_000,
        reference_cache=False,
    )
    assert config.world_size == world, (config.world_size, world)
    quantization = nf4() if quantised else None
    if quantised:
        quantization.bnb_4bit_quant_storage = torch.float32
    trainer = build(cls, config, model, examples=pairs(24), quantization_config=quantization)
    trainer.remove_callback(trainer.recorder)
    trainer.recorder = WholeGradients()
    trainer.add_callback(trainer.recorder)
    intercept(trainer.row_objective, "score", trainer.recorder.score)
    if world > 1:
        config.row_tokens = [1, 10_000][config.process_index]  # as many rows as examples, and a single one
    return trainer


def run(model: str, output: str, world: int) -> dict:
    results = {}
    for name, settings in RUNS.items():
        trainer = trainer_of(name, model, f"{output}/{name}", world, **settings)
        # Two processes cannot share five pairs evenly.
        held_out = Dataset.from_list(pairs(5, seed=9)) if name == "dpo" else None
        if world > 1 and held_out:
            with_error(functools.partial(trainer.evaluate, held_out), "cannot be evaluated before")
        trainer.train()
        if world > 1:
            assert_sharded(trainer.model)
        metrics = trainer.evaluate(held_out) if held_out else {}
        recorder = trainer.recorder
        results[name] = (recorder.gradients, recorder.logs, trained_weights(trainer.model), recorder.dtypes, metrics)
        if name == "dpo":
            trainer.save_model(f"{output}/adapter")
    return results


def assert_sharded(model) -> None:
    """Every weight of the layers lies in parts on both processes."""
    for name, parameter in model.named_parameters():
        if ".layers." in name:
            assert isinstance(parameter, DTensor), name
            assert parameter.to_local().numel() <= parameter.numel() // 2 + parameter.shape[-1], name


def with_error(call, text: str) -> None:
    try:
        call()
    except UserError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error: {text}")


def resume(model: str, output: str) -> list[dict[str, torch.Tensor]]:
    """Weights of a run of four steps with AdamW, and of the same run resumed after the second."""
    found = []
    for checkpoint in (None, f"{output}/resumed/checkpoint-2"):
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
        trainer = trainer_of("kto", model, f"{output}/resumed", 2, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        found.append(trained_weights(trainer.model))
    other = Path(output, "without")
    other.mkdir(exist_ok=True)
    (other / "trainer_state.json").write_text('{"global_step": 2}')
    (other / "adapter_model.safetensors").write_bytes(Path(checkpoint, "adapter_model.safetensors").read_bytes())
    with_error(lambda: trainer.check_resume(str(other)), "was written without FSDP and cannot be resumed with it")
    return found


if __name__ == "__main__":
    _, model, output = sys.argv
    os.environ.update(ENVIRONMENT)
    shard_on_cpus()
    found = run(model, output, world=2)
    resumed = resume(model, output)
    if torch.distributed.get_rank() == 0:
        torch.save((found, resumed), f"{output}/two.pt")
    torch.distributed.destroy_process_group()
