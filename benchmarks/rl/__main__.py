"""Time and memory of the update of a rollout, against TRL's GRPO trainer on the same rollouts.

    python -m benchmarks.rl [--prompts 2] [--completions 8] [--prompt 256] [--completion 128] [--rounds 3]

The model is a random Llama in NF4 with LoRA on all linear layers. Each round has another rollout of random tokens, from which both
trainers learn, one after the other; TRL in micro-batches of the completions of a prompt, and ours in one batch that is cut into
rows. On a CPU, TRL is measured twice: as it is, and with the LM head on completion tokens only, as it does on a GPU. Time is process
time of one thread on a CPU. The gradients are compared.

Ratios are printed with the smallest and the largest of the rounds, and saved in `benchmarks/results/rl-*.json`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import measure
from benchmarks.rl.setting import Trainers, make_model, make_rollout, step
from benchmarks.rl.table import AS_IS, NARROW, OURS, path_of, table
from benchmarks.step import about
from benchmarks.step_variants import narrow_head
from trl_ext.support import atomic


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "prompts": (2, "prompts of an optimizer step"),
        "completions": (8, "completions of a prompt"),
        "prompt": (256, "tokens of a prompt"),
        "completion": (128, "tokens of a completion"),
        "hidden": (256, "width of the model"),
        "layers": (6, "layers of the model"),
        "row_tokens": (1536, "tokens of our rows"),
        "rounds": (3, "rollouts"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="both trainers checkpoint all layers")
    words = parser.parse_args(argv)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    found = compare(words)
    record = {**about("random tokens", vars(words)), "rounds": found}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = path_of(device, words.checkpointing)
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")
    print(table([record]))
    print(f"saved in {path}")


def compare(words: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """Measure each variant once per round, after a step of each that is not measured."""
    folder = tempfile.mkdtemp()
    make_model(folder, words.hidden, words.layers)
    trainers = Trainers(
        folder,
        completions=words.completions,
        prompts=words.prompts,
        length=words.completion,
        row_tokens=words.row_tokens,
        recompute=words.checkpointing,
    )
    rounds = []
    for seed in range(words.rounds + 1):
        rollout = make_rollout(words.prompts, words.completions, words.prompt, words.completion, seed)
        gradients: dict[str, dict[str, torch.Tensor]] = {}
        measured = {}
        for name, run in variants(trainers, rollout, with_slowest=seed == 1):
            measured[name] = measure(lambda run=run, name=name, found=gradients: found.update({name: run()}))
            measured[name].pop("shares", None)
        measured["gradient difference"] = difference(gradients)
        if seed:  # the first step also proves packing and allocates
            rounds.append(measured)
            print(
                f"round {seed}: "
                + ", ".join(f"{n} {m['seconds']:.1f} s" for n, m in measured.items() if "TRL" in n or n == OURS)
            )
    return rounds


def variants(trainers: Trainers, rollout: dict[str, torch.Tensor], with_slowest: bool) -> list[tuple[str, Callable]]:
    """What is measured on a rollout; TRL as it is takes long on a CPU, and is measured once."""
    theirs, ours = trainers.micro_batches(rollout), trainers.our_micro_batches(rollout)

    def narrow() -> dict[str, torch.Tensor]:
        with narrow_head():
            return step(trainers.trl, theirs)

    found = [(OURS, lambda: step(trainers.ours, ours)), (NARROW, narrow)]
    if with_slowest and not torch.cuda.is_available():
        found.append((AS_IS, lambda: step(trainers.trl, theirs)))
    return found


def difference(gradients: dict[str, dict[str, torch.Tensor]]) -> float:
    """Relative difference of our gradient from TRL's."""
    ours, theirs = gradients[OURS], gradients[NARROW]
    apart = sum((ours[name] - theirs[name]).square().sum() for name in theirs)
    return (apart / sum(g.square().sum() for g in theirs.values())).sqrt().item()


if __name__ == "__main__":
    main()
