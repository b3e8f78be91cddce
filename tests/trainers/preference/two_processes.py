"""Trains four losses and saves every step's gradients; run by `test_two_processes.py` under torchrun.

Usage: two_processes.py MODEL OUTPUT
"""

import itertools
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer  # noqa: F401  (imported before the process group exists)

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, nf4
from trl_ext.checkpoints import manifest, staging
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.sft_and_reward import SupervisedConfig, SupervisedTrainer

LOSSES = {"dpo": True, "aot": True, "kto": False, "bco_unpaired": False}
OUT_OF_MEMORY = "dpo, memory runs out on one of them"


def fail_twice(trainer) -> None:
    """Have it run out of memory in the third row of the second process, also when the step is repeated."""
    rows = itertools.count(1)

    def score(original, model, batch):
        if next(rows) in (3, 6) and trainer.args.process_index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(model, batch)

    intercept(trainer.row_objective, "score", score)


def run(model: str, output: str, world: int) -> dict:
    results = {}
    for name, is_paired in {**LOSSES, OUT_OF_MEMORY: True}.items():
        loss = name.partition(",")[0]
        cls = PairedPreferenceTrainer if is_paired else UnpairedPreferenceTrainer
        fails = name == OUT_OF_MEMORY and world > 1
        config_class = PairedPreferenceConfig if is_paired else UnpairedPreferenceConfig
        config = config_class(
            **arguments(output, per_device_train_batch_size=4 // world, gradient_accumulation_steps=2),
            loss=loss,
        )
        assert config.world_size == world, (config.world_size, world)
        trainer = build(cls, config, model, examples=pairs(24), quantization_config=nf4())
        if fails:
            fail_twice(trainer)
        if world > 1:
            # as many rows as examples, and a single one
            config.row_tokens = [1, 10_000][config.process_index] if not fails else 60
        trainer.train()
        is_smaller = config.row_tokens != "auto" and trainer.row_tokens < config.row_tokens
        assert is_smaller == (fails and config.process_index == 1)
        results[name] = (trainer.recorder.gradients, trainer.recorder.logs)
    return results


def evaluate(model: str, output: str, world: int) -> dict[str, dict]:
    """Metrics of five held-out pairs, which two processes cannot share evenly: loaded, and streamed from one and two files."""
    config = PairedPreferenceConfig(**arguments(output, per_device_eval_batch_size=4))
    trainer = build(PairedPreferenceTrainer, config, model, examples=pairs(8))
    held_out = Dataset.from_list(pairs(5, seed=9))
    config = SupervisedConfig(**arguments(output, per_device_eval_batch_size=1))
    answers = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(5, seed=9)])
    sft = SupervisedTrainer(model=model, args=config, train_dataset=answers, eval_dataset=answers, peft_config=lora())
    loaded = trainer.evaluate(held_out)
    if config.process_index == 0:  # as scripts do
        trainer.save_model(f"{output}/saved")
    trainer.args.per_device_eval_batch_size = 2
    return {
        "loaded": loaded,
        "streamed": trainer.evaluate(held_out.to_iterable_dataset()),
        "streamed from two files": trainer.evaluate(held_out.to_iterable_dataset(num_shards=2)),
        "sft": sft.evaluate(sft.eval_dataset),
        "sft, streamed from two files": sft.evaluate(sft.eval_dataset.to_iterable_dataset(num_shards=2)),
    }


def resume(model: str, output: str) -> tuple[list[float], list[float]]:
    """Losses of a KTO run over three epochs, and of the same run resumed in the middle of the second."""
    losses = []
    for checkpoint in (None, f"{output}/kto/checkpoint-4"):
        settings = {"per_device_train_batch_size": 2, "max_steps": 9, "save_strategy": "steps", "save_steps": 4}
        config = UnpairedPreferenceConfig(**arguments(f"{output}/kto", **settings))
        trainer = build(UnpairedPreferenceTrainer, config, model, examples=pairs(6))
        trainer.train(resume_from_checkpoint=checkpoint)
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    # Both wrote into the one folder that the first of them listed and renamed.
    listed = manifest.read(Path(checkpoint))["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "adapter_model.safetensors"} <= set(listed), listed
    assert manifest.damage(Path(checkpoint)) is None and not Path(output, "kto", staging.FOLDER).exists()
    return tuple(losses)


if __name__ == "__main__":
    _, model, output = sys.argv
    found = run(model, output, world=2)
    metrics = evaluate(model, output, world=2)
    resumed = resume(model, output)
    if torch.distributed.get_rank() == 0:
        torch.save((found, metrics, resumed), f"{output}/two.pt")
    torch.distributed.destroy_process_group()
