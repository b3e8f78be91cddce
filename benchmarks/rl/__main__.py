"""Time and memory of the update of a rollout, against TRL's GRPO trainer on the same rollouts.

    python -m benchmarks.rl [--model FOLDER] [--prompts 2] [--completions 8] [--prompt 256] [--completion 128] [--rounds 3]

FOLDER is a model with its tokenizer, such as the one that `make real-model` makes; without it, the model is a random Llama. It is
loaded in NF4 with LoRA on all linear layers. Each round has another rollout of random tokens, from which both trainers learn, one
after the other; TRL in micro-batches of the completions of a prompt, and ours in one batch that is cut into rows. Both run one
forward and one backward pass, as both do where a rollout is learnt from in one step and `beta` is 0. On a CPU, TRL is measured
twice: as it is, and with the LM head on completion tokens only, as it does on a GPU. Time is process time of one thread on a CPU.
The gradients are compared.

Every measurement is saved at once in `benchmarks/results/rl-*.json`: a benchmark that was stopped continues where it stopped.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import measure
from benchmarks.rl import words
from benchmarks.rl.setting import Trainers, make_rollout, model_folder, step
from benchmarks.rl.table import AS_IS, DIFFERENCE, NARROW, OURS, path_of, table
from benchmarks.step import about
from benchmarks.step_record import Record
from benchmarks.step_variants import narrow_head

NUMBERS = {
    "prompts": (2, "prompts of an optimizer step"),
    "completions": (8, "completions of a prompt"),
    "prompt": (256, "tokens of a prompt"),
    "completion": (128, "tokens of a completion"),
    "hidden": (512, "width of the random model"),
    "layers": (8, "layers of the random model"),
    "row_tokens": (1536, "tokens of our rows"),
    "rounds": (3, "rollouts"),
}


def main(argv: list[str] | None = None) -> None:
    parser = words.parser(__doc__, NUMBERS)
    parser.add_argument("--checkpointing", action="store_true", help="both trainers checkpoint all layers")
    given = words.read(parser, argv)
    name, settings = words.settings_of(given)
    record = Record(path_of(words.device(), given.checkpointing, name), about("random tokens", settings), given.again)
    compare(given, record)
    print(table([record.content]))
    print(f"saved in {record.path}")


def compare(given: argparse.Namespace, record: Record) -> None:
    """Measure what the record lacks, after a step of each trainer that is not measured."""
    missing = [seed for seed in range(1, given.rounds + 1) if not record.has(seed, DIFFERENCE)]
    if not missing:
        return
    folder = model_folder(given.model, given.hidden, given.layers)
    trainers = Trainers(
        folder,
        completions=given.completions,
        prompts=given.prompts,
        length=given.completion,
        row_tokens=given.row_tokens,
        recompute=given.checkpointing,
    )
    for seed in (0, *missing):  # the first step also proves packing and allocates
        rollout = make_rollout(folder, given.prompts, given.completions, given.prompt, given.completion, seed)
        gradients: dict[str, dict[str, torch.Tensor]] = {}
        for name, run in variants(trainers, rollout, with_slowest=seed == 1, is_reversed=seed % 2 == 0):
            measured = measure(lambda run=run, name=name, found=gradients: found.update({name: run()}))
            if seed and not record.has(seed, name):
                record.add(seed, name, {quantity: measured[quantity] for quantity in ("seconds", "peak_bytes")})
                print(f"round {seed}, {name}: {measured['seconds']:.1f} s", flush=True)
        if seed:
            record.add(seed, DIFFERENCE, {"relative": difference(gradients)})


def variants(
    trainers: Trainers, rollout: dict[str, torch.Tensor], *, with_slowest: bool, is_reversed: bool
) -> list[tuple[str, Callable]]:
    """What is measured on a rollout, in turns; TRL as it is takes long on a CPU, and is measured once."""
    theirs, ours = trainers.micro_batches(rollout), trainers.our_micro_batches(rollout)

    def narrow() -> dict[str, torch.Tensor]:
        with narrow_head():
            return step(trainers.trl, theirs)

    found = [(OURS, lambda: step(trainers.ours, ours)), (NARROW, narrow)]
    if is_reversed:
        found.reverse()
    if with_slowest and not torch.cuda.is_available():
        found.append((AS_IS, lambda: step(trainers.trl, theirs)))
    return found


def difference(gradients: dict[str, dict[str, Any]]) -> float:
    """Relative difference of our gradient from TRL's."""
    ours, theirs = gradients[OURS], gradients[NARROW]
    apart = sum((ours[name] - theirs[name]).square().sum() for name in theirs)
    return (apart / sum(g.square().sum() for g in theirs.values())).sqrt().item()


if __name__ == "__main__":
    main()
