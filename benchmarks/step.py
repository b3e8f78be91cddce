"""Time of one optimizer step against TRL's own trainer: same model, pairs and seeds, interleaved in one process.

    python -m benchmarks.step DATA [--pairs 16] [--rounds 4] [--hidden 256] [--layers 4]

DATA is any preference file or Hub name that `trl-ext run` reads. The model is a random Llama of the given size in 4
bits with LoRA on all linear layers, its vocabulary a 16,384-token BPE trained on DATA. TRL runs a step in micro-batches,
as its users do; ours takes the same pairs as one step. Printed and saved are ratios of medians, TRL ÷ ours. TRL is also
fed batches sorted by length, which is kinder than what it does.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from trl_ext import data
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

RESULTS = Path(__file__).parent / "results"
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_model(folder: str, dataset: Dataset, hidden: int, layers: int) -> None:
    """Writes a random model and a tokenizer trained on the dataset."""
    texts = (turn["content"] for row in dataset for side in row.values() for turn in side)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=16384, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def build(cls: type, config: Any, folder: str, dataset: Dataset) -> Any:
    trainer = cls(
        model=folder,
        args=config,
        train_dataset=dataset,
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
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
            parameter.data = parameter.data.float()  # TRL casts them to bfloat16, which most CPUs emulate
    return trainer


def trl_step(trainer: Any, examples: list[dict], batch: int, is_sorted: bool = False) -> Callable[[], None]:
    """TRL's step: micro-batches of `batch` examples, in the order given or sorted by length."""
    if is_sorted:
        examples = sorted(examples, key=lambda e: sum(len(ids) for name, ids in e.items() if name.endswith("_ids")))
    batches = [trainer.data_collator(examples[i : i + batch]) for i in range(0, len(examples), batch)]
    trainer.current_gradient_accumulation_steps = len(batches)

    def run() -> None:
        for inputs in batches:
            trainer.training_step(trainer.model, dict(inputs))

    return run


def our_step(trainer: Any, examples: list[dict]) -> Callable[[], None]:
    return lambda: trainer.training_step(trainer.model, examples)


def clock(trainer: Any, run: Callable[[], None]) -> float:
    trainer.model.zero_grad()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def saved_bytes(trainer: Any, run: Callable[[], None]) -> int:
    """Most bytes that were kept for a backward pass at any time of a step, weights excluded."""
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    alive: dict[int, int] = {}
    most = 0

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal most
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            if self.key not in weights:
                alive[self.key] = alive.get(self.key, 0) + 1
                sizes[self.key] = tensor.untyped_storage().nbytes()
                most = max(most, sum(sizes[key] for key in alive))

        def __del__(self) -> None:
            if self.key in alive:
                alive[self.key] -= 1
                if not alive[self.key]:
                    del alive[self.key]

    sizes: dict[int, int] = {}
    trainer.model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run()
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=16, help="pairs per optimizer step")
    parser.add_argument("--rounds", type=int, default=4, help="steps timed, each once per variant")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--max_length", type=int, default=1024)
    words = parser.parse_args()
    os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
    folder = tempfile.mkdtemp()
    dataset = data.load(words.data).dataset
    make_model(folder, dataset, words.hidden, words.layers)
    dataset = dataset.shuffle(seed=0).select(range(words.pairs * words.rounds))
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": words.pairs,
        "max_length": words.max_length,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "report_to": "none",
    }
    stored, recomputed = {"gradient_checkpointing": False}, {"gradient_checkpointing": True}
    trl = build(DPOTrainer, DPOConfig(**settings, **stored), folder, dataset)
    trl_default = build(DPOTrainer, DPOConfig(**settings, **recomputed), folder, dataset)
    ours = {
        name: build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings, **stored, **changes), folder, dataset)
        for name, changes in {
            "padded": {"packing": False, "reference_cache": False},
            "packed": {"reference_cache": False},
            "cached": {},
        }.items()
    }
    kto = {**settings, **stored, "train_sampling_strategy": "sequential"}
    trl_kto = build(KTOTrainer, KTOConfig(**{**kto, "per_device_train_batch_size": 8}), folder, dataset)
    our_kto = build(UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**kto, reference_cache=False), folder, dataset)

    def split(examples: Iterable[dict]) -> list[list[dict]]:
        examples = list(examples)
        return [examples[i : i + words.pairs] for i in range(0, len(examples) - words.pairs + 1, words.pairs)]

    steps, kto_steps = split(trl.train_dataset), split(trl_kto.train_dataset)[: words.rounds]
    variants: dict[str, list[tuple[Any, Callable[[], None]]]] = {}
    for batch in (4, 8):
        variants[f"TRL, {batch} pairs"] = [(trl, trl_step(trl, step, batch)) for step in steps]
        variants[f"TRL sorted, {batch} pairs"] = [(trl, trl_step(trl, step, batch, is_sorted=True)) for step in steps]
    variants["TRL default, 8 pairs"] = [(trl_default, trl_step(trl_default, step, 8)) for step in steps]
    for name, trainer in ours.items():
        variants[name] = [(trainer, our_step(trainer, step)) for step in steps]
    variants["TRL KTO"] = [(trl_kto, trl_step(trl_kto, step, 8)) for step in kto_steps]
    variants["our KTO"] = [(our_kto, our_step(our_kto, _without_baked_pairs(step))) for step in kto_steps]
    for name in ("padded", "packed", "cached", "our KTO"):  # fills the cache, proves packing, warms up
        for _, run in variants[name]:
            run()
    times = {name: [] for name in variants}
    for i in range(len(steps)):
        for name, runs in variants.items():
            if i < len(runs):
                times[name].append(clock(*runs[i]))
    medians = {name: statistics.median(found) for name, found in times.items()}
    memory = {name: saved_bytes(*variants[name][0]) for name in ("TRL, 8 pairs", "packed")}
    rows = [
        ("4 pairs per TRL micro-batch", "TRL, 4 pairs", "packed"),
        ("8 pairs per TRL micro-batch", "TRL, 8 pairs", "packed"),
        ("4 pairs, TRL fed sorted batches", "TRL sorted, 4 pairs", "packed"),
        ("8 pairs, TRL fed sorted batches", "TRL sorted, 8 pairs", "packed"),
        ("4 pairs, reference cached (second loss tried)", "TRL, 4 pairs", "cached"),
        ("8 pairs, reference cached, TRL at its default (checkpointing)", "TRL default, 8 pairs", "cached"),
        ("8 pairs, our padded fallback", "TRL, 8 pairs", "padded"),
        ("KTO, 8 completions per TRL micro-batch", "TRL KTO", "our KTO"),
    ]
    table = Table("step time", "TRL", "ours", "TRL ÷ ours")
    for title, theirs, mine in rows:
        ratio = medians[theirs] / medians[mine]
        table.add_row(title, f"{medians[theirs]:.2f} s", f"{medians[mine]:.2f} s", f"{ratio:.2f}")
    share = memory["packed"] / memory["TRL, 8 pairs"]
    table.add_row(
        "bytes kept for backward, 8 pairs, no checkpointing",
        *(f"{memory[name] / 2**20:.0f} MiB" for name in ("TRL, 8 pairs", "packed")),
        f"{1 / share:.2f}",
    )
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {key: value for key, value in vars(words).items() if key != "data"},
        "seconds": times,
        "bytes_for_backward": memory,
        "ratios": {title: medians[theirs] / medians[mine] for title, theirs, mine in rows},
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (RESULTS / f"step-{device}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _without_baked_pairs(examples: list[dict]) -> list[dict]:
    return [{name: value for name, value in e.items() if not name.startswith("KL_")} for e in examples]


if __name__ == "__main__":
    main()
