"""Tokens per second of sampling completions: TRL's trainer, ours from the NF4 base with its adapter, and ours from a merged copy, in turns.

    python -m benchmarks.rl.sampling [--model FOLDER] [--prompts 4] [--completions 8] [--prompt 256] [--completion 128] [--rounds 3]

FOLDER is a model with its tokenizer; without it, the model is a random Llama. It is loaded in NF4 with LoRA on all linear layers.
All three sample completions of the same random prompts in one batch with the same seed, all of them to the last token, from a model in
training mode as in a run. The time of the merged copy includes writing the adapter into it, as before each rollout. It is process time of one
thread on a CPU, and wall-clock time on a GPU.

Ratios are printed with the smallest and the largest of the rounds. Every measurement is saved at once in
`benchmarks/results/rl-sampling-*.json`: a benchmark that was stopped continues where it stopped.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from benchmarks.measure import seconds
from benchmarks.rl import words
from benchmarks.rl.setting import build, model_folder, random_tokens, vocabulary
from benchmarks.rl.table import RESULTS, model, rounds
from benchmarks.step import about
from benchmarks.step_record import Record, spread
from trl_ext import PPOConfig, PPOTrainer
from trl_ext.support.counts import count

WAYS = TRL, ADAPTER, MERGED = "trl", "adapter", "merged"
Prompts = list[list[int]]

NUMBERS = {
    "prompts": (4, "prompts that are sampled together"),
    "completions": (8, "completions of a prompt"),
    "prompt": (256, "tokens of a prompt"),
    "completion": (128, "tokens of a completion"),
    "hidden": (512, "width of the random model"),
    "layers": (8, "layers of the random model"),
    "rounds": (3, "measurements of each way"),
}


def main(argv: list[str] | None = None) -> None:
    given = words.read(words.parser(__doc__, NUMBERS), argv)
    name, settings = words.settings_of(given)
    path = path_of(words.device(), given.prompts, name)
    record = Record(path, about("random tokens", settings), given.again)
    compare(given, record)
    print(table(record.content))
    print(f"saved in {path}")


def path_of(device: str, prompts: int, model: str | None = None) -> Path:
    """Where measurements are kept, by the number of prompts and the name of a model that was given."""
    of_one = "one-prompt" if prompts == 1 else None
    return RESULTS / ("-".join(filter(None, ("rl-sampling", model, of_one, device))) + ".json")


def compare(given: argparse.Namespace, record: Record) -> None:
    """Measure what the record lacks, after one run of each way that is not measured."""
    missing = [seed for seed in range(1, given.rounds + 1) if not all(record.has(seed, way) for way in WAYS)]
    if not missing:
        return
    folder = model_folder(given.model, given.hidden, given.layers)
    trainers, size = make_trainers(given, folder), vocabulary(folder)
    for seed in (0, *missing):
        distinct = random_tokens(size, (given.prompts, given.prompt), torch.Generator().manual_seed(seed)).tolist()
        prompts = [prompt for prompt in distinct for _ in range(given.completions)]
        # The order changes, so that no way is always the first.
        for way in WAYS if seed % 2 else WAYS[::-1]:
            if seed and record.has(seed, way):
                continue
            took = seconds(lambda way=way, prompts=prompts: sample(trainers, way, prompts))
            if seed:
                record.add(seed, way, {"seconds": took})
                print(f"round {seed}, {way}: {took:.1f} s", flush=True)


def sample(trainers: tuple[Any, Any], way: str, prompts: Prompts) -> None:
    """Sample completions of the prompts as a trainer does at the beginning of a rollout.

    Args:
        trainers: TRL's and ours.
    """
    theirs, ours = trainers
    torch.manual_seed(0)
    if way == TRL:
        completions, _ = theirs._generate_single_turn(prompts, None, {}, len(prompts))
    else:
        ours.sampler.choice = way
        completions = ours._generate_single_turn(prompts, None, {})
    wanted = ours.args.max_completion_length
    if any(len(ids) != wanted for ids in completions):
        raise ValueError(f"A completion has not {wanted} tokens, so tokens per second would mean something else.")


def make_trainers(given: argparse.Namespace, folder: str) -> tuple[GRPOTrainer, PPOTrainer]:
    """TRL's trainer and ours, whose models are in training mode as in a run: bitsandbytes rounds 4-bit weights again in evaluation mode
    on some CPUs."""
    on_gpu = torch.cuda.is_available()
    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": given.prompts * given.completions,
        "max_completion_length": given.completion,
        "generation_kwargs": {"min_new_tokens": given.completion},
        "gradient_checkpointing": False,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "report_to": "none",
    }
    theirs = build(GRPOTrainer, GRPOConfig(**common, num_generations=given.completions), folder)
    ours = build(PPOTrainer, PPOConfig(**common), folder)
    for trainer in (theirs, ours):
        trainer.model.train()
    return theirs, ours


def table(record: dict[str, Any]) -> str:
    """Medians of tokens per second and ratios with their range, as a Markdown table."""
    given, versions = record["settings"], record["versions"]
    rows = [
        f"| {text} | {rate(record, way):.0f} | {ratio(record, way, TRL)} | {ratio(record, way, ADAPTER)} |"
        for text, way in (("TRL", TRL), ("NF4 base with adapter", ADAPTER), ("merged copy", MERGED))
    ]
    return "\n".join(
        [
            "| sampling | tokens per second | ÷ TRL | ÷ base with adapter |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Medians of {given['rounds']} rounds, with the smallest and the largest ratio. Measured {record['date']} on "
            f"{record['device']}, {record['threads']} thread, torch {versions['torch']}. {count(given['prompts'], 'prompts')} of "
            f"{given['prompt']} tokens, with {given['completions']} completions of {given['completion']} tokens each. "
            f"The model is {model(given)} in NF4, with LoRA of rank 16 on all linear layers. "
            "The time of the merged copy includes writing the adapter into it.",
        ]
    )


def rate(record: dict[str, Any], way: str) -> float:
    """Tokens per second, median."""
    given = record["settings"]
    tokens = given["prompts"] * given["completions"] * given["completion"]
    return statistics.median(tokens / found[way]["seconds"] for found in _complete(record))


def ratio(record: dict[str, Any], way: str, other: str) -> str:
    """Of the tokens per second of two ways: median, smallest and largest; empty for a way itself."""
    if way == other:
        return ""
    return spread([found[other]["seconds"] / found[way]["seconds"] for found in _complete(record)])


def _complete(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for found in rounds(record) if all(way in found for way in WAYS)]


if __name__ == "__main__":
    main()
