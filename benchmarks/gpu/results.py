"""Define the results file: one per card, written as a whole after every cell.

A cell is one kind of measurement of one recipe, `results["cells"][recipe][kind]`. A recipe is the name of a file in
`recipes/` without its ending, or a key of `benchmarks.gpu.cases.EXTRAS`. GiB are of 2³⁰ bytes, times are seconds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypedDict

FOLDER = Path(__file__).parents[1] / "results"
KINDS = ("step", "rollout", "trl", "row_tokens", "packed_vs_padded", "profile")
"""Kinds of cells, most important first."""


class Card(TypedDict):
    """The card and its memory limit."""

    name: str
    memory_gib: float
    cap_gib: float  # limit of the allocator
    bf16_tflops_measured: float  # 8192³ products on random numbers
    compute_capability: str  # such as "9.0"


class Cell(TypedDict):
    """Fields of every cell; a failed measurement has no others."""

    date: str  # ISO, to the second, UTC
    commit: str | None  # of the code that was measured; ends in "+" where files differed from it
    fits: bool | None  # under the cap; `None` where it failed for another reason
    why: str | None  # one sentence if it did not fit or failed


class Step(Cell, total=False):
    """An optimizer step of a recipe, through `Trainer.train`."""

    planned_gib: float  # peak, for the rows and recomputed layers the trainer chose, the card's cap and these lengths
    planned_static_gib: float  # of it: weights, adapter, gradients, optimizer
    planned_activations_gib: float  # of it: activations, without what the allocator and the context add
    planned_row_tokens: int  # what the planner would have chosen
    planned_checkpointed_layers: int
    allocated_gib: float  # peak of tensors
    reserved_gib: float  # peak of what the allocator held
    context_gib: float  # of the card in use outside the allocator, other programs' memory too
    seconds: float  # median of the steps after warm-up
    steps: list[float]  # each of them
    examples: int  # in a step
    real_tokens: float  # of sequences, a prompt counted once per completion, no padding: mean of a step
    computed_tokens: float  # through forward passes with gradient, padding included, shared prompts once
    tokens_per_second: float  # real ones
    computed_tokens_per_second: float
    roofline_share: float  # of `bf16_tflops_measured`: multiplications of the 4-bit layers and the LM head
    tflop: float  # of a step, by that count
    attention: str  # how rows were computed
    row_tokens: int | None  # most tokens of a row; `None` where the trainer has no rows
    longest_row: int | None
    checkpointed_layers: int | None  # in the longest row
    layers: int
    lengths: str  # table in `benchmarks/lengths`
    said: list[str]  # lines that the trainer printed about its choices


class Rollout(Cell, total=False):
    """PPO: policy, reference, critic and reward model on one base. Names as in `Step`."""

    planned_gib: float
    planned_static_gib: float
    planned_activations_gib: float
    rollout_seconds: float  # sampling, scoring under all roles; median
    update_seconds: float  # forward, backward and optimizer of policy and critic; median
    rollout_allocated_gib: float
    update_allocated_gib: float
    allocated_gib: float
    reserved_gib: float
    context_gib: float
    seconds: float  # of a rollout and its updates together, divided by the updates
    completions: int  # in a rollout
    completion_tokens: float  # sampled in a rollout, mean
    updates: int  # of a rollout
    sampled_tokens_per_second: float
    lengths: str


class AgainstTRL(Cell, total=False):
    """TRL's own trainer on the same examples and the same base; `fits` is TRL's."""

    micro_batch: int | None  # largest of those tried that fits; `None` if none does
    did_not_fit: list[int]  # micro-batches tried that did not
    seconds: float  # TRL's, median of its steps
    our_seconds: float  # ours, in turn with TRL's
    ratio: float  # TRL's time ÷ ours, both summed over the same steps
    allocated_gib: float  # TRL's peaks
    reserved_gib: float
    our_allocated_gib: float
    our_reserved_gib: float
    loss: float  # of the first step, TRL's and ours: the same examples
    our_loss: float
    lengths: str


class RowTokens(Cell, total=False):
    """The longest row that runs forward and backward within the limit, with all layers checkpointed."""

    row_tokens: int
    did_not_fit: int | None  # the shortest tried that ran out of memory; `None` if none did
    planned_row_tokens: int
    allocated_gib: float  # in the longest that fits
    reserved_gib: float


class Kernel(TypedDict):
    """A kernel of the device."""

    name: str
    seconds: float
    calls: int


class Profile(Cell, total=False):
    """Profile of one step by `torch.profiler`; shares refer to `kernel_seconds`."""

    seconds: float  # of the step while profiled
    kernel_seconds: float  # of all kernels, added up
    shares: dict[str, float]  # dequantisation, attention, head, matmul, optimizer, copies, rest
    top: list[Kernel]  # by time


class PackedVsPadded(Cell, total=False):
    """Log-probabilities of the same completions in packed and in padded rows, in nats, summed over a completion."""

    completions: int
    largest_difference: float  # |packed − padded|
    largest_relative: float  # of it to |padded|
    noise: float  # largest |padded − padded in other rows|: what rounding does without packing
    tolerance: str  # in words
    within: bool


class Results(TypedDict):
    """A results file."""

    card: Card
    versions: dict[str, str]
    date: str  # of its first cell
    small: bool  # tiny models: tests the benchmark, not the card
    cells: dict[str, dict[str, Any]]  # recipe → kind → one of the above


def slug(name: str) -> str:
    """`NVIDIA H200` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def path(card: str, folder: Path = FOLDER, *, small: bool = False) -> Path:
    """Path of a card's results; results of tiny models have another name."""
    return folder / f"{'small' if small else 'gpu'}-{slug(card)}.json"


def read(file: Path) -> Results | None:
    """The saved results, if there are any."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def measured(folder: Path = FOLDER) -> list[Results]:
    """Results of every card, sorted by file name."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("gpu-*.json"))]
