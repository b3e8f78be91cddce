"""Tokens per second of sampling completions: an NF4 base with its adapter, against a merged copy of it, in turns.

    python -m benchmarks.rl.sampling [--completions 8] [--prompt 256] [--completion 128] [--rounds 3]

The model is a random Llama in NF4 with LoRA on all linear layers. Both ways sample completions of the same random prompts with the
same trainer and seed, all of them to the last token. The time of the merged copy includes writing the adapter into it, as before
each rollout. It is process time of one thread on a CPU, and wall-clock time on a GPU.

The ratio is printed with the smallest and the largest of the rounds, and saved in `benchmarks/results/rl-sampling-*.json`.
"""

import argparse
import json
import statistics
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig

from benchmarks.measure import seconds
from benchmarks.rl.setting import VOCABULARY, make_model
from benchmarks.rl.table import RESULTS
from benchmarks.step import about
from trl_ext import PPOConfig, PPOTrainer
from trl_ext.support import atomic

WAYS = ADAPTER, MERGED = "adapter", "merged"
Prompts = list[list[int]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "completions": (8, "completions that are sampled together"),
        "prompt": (256, "tokens of a prompt"),
        "completion": (128, "tokens of a completion"),
        "hidden": (512, "width of the model"),
        "layers": (8, "layers of the model"),
        "rounds": (3, "measurements of each way"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    words = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    record = {**about("random tokens", vars(words)), "rounds": compare(words)}
    path = RESULTS / f"rl-sampling-{device}.json"
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")
    print(table(record))
    print(f"saved in {path}")


def compare(words: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of each way, once per round, after one of each that is not measured."""
    trainer = make_trainer(words)
    generator = torch.Generator().manual_seed(1)
    rounds = []
    for number in range(words.rounds + 1):
        prompt = torch.randint(2, VOCABULARY, (words.prompt,), generator=generator).tolist()
        prompts = [prompt] * words.completions
        # The order changes, so that neither way is always the first.
        order = WAYS if number % 2 else WAYS[::-1]
        found = {way: seconds(lambda way=way, prompts=prompts: sample(trainer, way, prompts)) for way in order}
        if number:
            rounds.append(found)
            shown = ", ".join(f"{way} {found[way]:.1f} s" for way in WAYS)
            print(f"round {number}: {shown}", flush=True)
    return rounds


def sample(trainer: Any, way: str, prompts: Prompts) -> None:
    """Sample completions of the prompts as a trainer does at the beginning of a rollout."""
    torch.manual_seed(0)
    trainer.sampler.choice = way
    completions = trainer._generate_single_turn(prompts, None, {})
    wanted = trainer.args.max_completion_length
    if any(len(ids) != wanted for ids in completions):
        raise ValueError(f"A completion has not {wanted} tokens, so tokens per second would mean something else.")


def make_trainer(words: argparse.Namespace) -> PPOTrainer:
    folder = tempfile.mkdtemp()
    make_model(folder, words.hidden, words.layers)
    on_gpu = torch.cuda.is_available()
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=words.completions,
        max_completion_length=words.completion,
        generation_kwargs={"min_new_tokens": words.completion},
        use_cpu=not on_gpu,
        bf16=on_gpu,
        report_to="none",
    )
    trainer = PPOTrainer(
        model=folder,
        args=args,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "w2 w3"}] * args.generation_batch_size),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        ),
    )
    trainer.model.eval()
    return trainer


def table(record: dict[str, Any]) -> str:
    """Medians of tokens per second and their ratio with its range, as a Markdown table."""
    given, rounds, versions = record["settings"], record["rounds"], record["versions"]
    tokens = given["completions"] * given["completion"]
    rates = {way: statistics.median(tokens / found[way] for found in rounds) for way in WAYS}
    ratios = [found[ADAPTER] / found[MERGED] for found in rounds]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    return "\n".join(
        [
            "| sampling | NF4 base + adapter | merged copy | ratio |",
            "|---|---|---|---|",
            f"| tokens per second | {rates[ADAPTER]:.0f} | {rates[MERGED]:.0f} | {spread} |",
            "",
            f"Medians of {given['rounds']} rounds, with the smallest and the largest ratio. Measured {record['date']} on "
            f"{record['device']}, {record['threads']} thread, torch {versions['torch']}. {given['completions']} completions of "
            f"{given['completion']} tokens after a prompt of {given['prompt']}. The model is a random Llama with {given['layers']} "
            f"layers of width {given['hidden']} and {VOCABULARY:,} tokens in NF4, with LoRA of rank 16 on all linear layers. The "
            "time of the merged copy includes writing the adapter into it.",
        ]
    )


if __name__ == "__main__":
    main()
