"""Time of one optimizer step against TRL's own trainer, on the same pairs, model and machine, interleaved.

    python -m benchmarks.step DATA [--pairs 8] [--rounds 5] [--checkpointing]

DATA is any preference file or Hub name `trl-ext run` reads. Both trainers run on the embedded model in 4 bits. The
numbers printed are ratios of medians: what one of our steps costs in units of TRL's.
"""

import argparse
import statistics
import tempfile
import time

import torch
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig
from trl import DPOConfig, DPOTrainer

from trl_ext import data, demo
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.completions import num_tokens


def build(cls: type, config: object, dataset: object) -> DPOTrainer:
    trainer = cls(
        model=str(demo.MODEL),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(demo.MODEL),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL casts them to bfloat16, which CPUs emulate
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step, TRL's micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--checkpointing", action="store_true")
    words = parser.parse_args()
    dataset = data.load(words.data).dataset.shuffle(seed=0).select(range(words.pairs * words.rounds * 2))
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": words.pairs,
        "max_length": words.max_length,
        "gradient_checkpointing": words.checkpointing,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
    }
    trl = build(DPOTrainer, DPOConfig(**settings), dataset)
    ours = {
        name: build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings, **changes), dataset)
        for name, changes in {
            "padded, sorted": {"packing": False, "reference_cache": False},
            "packed": {"reference_cache": False},
            "packed, reference cached": {"reference_cache": True},
        }.items()
    }
    examples = list(trl.train_dataset)
    steps = [examples[i : i + words.pairs] for i in range(0, len(examples) - words.pairs + 1, words.pairs)]
    steps = steps[: words.rounds]
    times: dict[str, list[float]] = {"TRL": [], **{name: [] for name in ours}}
    for step in steps:  # fill the cache, decide on packing, warm up
        for trainer in ours.values():
            trainer.training_step(trainer.model, step)
    for step in steps:
        batch = trl.data_collator(step)
        times["TRL"].append(clock(trl, dict(batch)))
        for name, trainer in ours.items():
            times[name].append(clock(trainer, step))
    padded = sum(trl.data_collator(step)["input_ids"].numel() for step in steps)
    real = sum(int(num_tokens(trl.data_collator(step))) for step in steps)
    packed = sum(ours["packed"]._tree(example).tokens for step in steps for example in step)
    print(f"{len(steps)} steps of {words.pairs} pairs; tokens computed: TRL {padded:,}, packed {packed:,}")
    print(f"TRL's padding {1 - real / padded:.0%}; TRL / packed {padded / packed:.2f} tokens")
    base = statistics.median(times["TRL"])
    for name, found in times.items():
        print(f"{name:26s} {statistics.median(found):7.2f} s   {base / statistics.median(found):5.2f} × TRL's speed")


def clock(trainer: DPOTrainer, inputs: object) -> float:
    trainer.model.zero_grad()
    started = time.perf_counter()
    trainer.training_step(trainer.model, inputs)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
