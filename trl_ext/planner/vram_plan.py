"""Plan a run: every term of its peak memory, the limits on a card, and lower bounds on step times."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trl_ext.planner import advice, calibration, cards, memory, request
from trl_ext.planner.cards import CARDS, Card
from trl_ext.planner.fitting import Fit, Overhead
from trl_ext.planner.memory import GIB
from trl_ext.planner.request import Request
from trl_ext.planner.sampling import ADAPTER, AUTO, MERGED
from trl_ext.support.errors import UserError

DISPLAY = 1.5
"""GiB of a card that are kept free for a display and other programs."""
ROWS = (512, 1024, 2048, 4096, 8192)
"""Row lengths for which the plan gives the number of layers to checkpoint."""


@dataclass(frozen=True)
class Term:
    """One part of the peak: its `bytes`, and whether it exists all the time (static) or only at the peak."""

    name: str
    bytes: float
    is_static: bool


@dataclass(frozen=True)
class Time:
    """Lower bounds in seconds on one card; `None` if the run does not fit it."""

    card: str
    row_tokens: int | None
    checkpointed_layers: int | None
    step: float | None
    epoch: float | None


@dataclass(frozen=True)
class VramPlan:
    """Memory and times of a recipe on a card. Sizes are in bytes unless GiB is stated.

    Attributes:
        model: Name or folder.
        parameters, quantised, experts, vision, trained: Numbers of weights: all, those stored in 4 or 8 bits, those of
            experts and of towers and projectors beside the language model, and those that are trained.
        vram: Memory of the card, GiB.
        budget: GiB of it that a run may use.
        fits: Whether the longest example fits within the budget.
        is_tight: Whether it fits the card only if nothing else uses it.
        row_tokens, checkpointed_layers: The run's choice, or the choice with the least memory if nothing fits.
        layers: Decoder layers.
        moment: Phase of a step in which the peak is reached.
        terms: Parts of the peak.
        peak: Their sum.
        longest: Tokens of the longest example that the recipe allows.
        largest_row: Maximum tokens of a row, with all layers checkpointed.
        longest_sequence: Largest `max_length`.
        largest_rank: Largest `lora_r`; `None` without a new adapter.
        checkpointing: Minimum number of checkpointed layers by tokens of a row; `None` if the row does not fit.
        times: Lower bounds for a step and an epoch, by card.
        mean_tokens: Mean tokens of an example, as assumed for the times.
        examples: Examples of an epoch; `None` if unknown, and then `times` have no epoch.
        examples_per_step: Examples per optimizer step on one process.
        flags: Flags to add to the command so that it fits.
        flags_suffice: Whether it fits with these flags.
        notes: Sentences about assumptions.
    """

    model: str
    parameters: int
    quantised: int
    experts: int
    vision: int
    trained: int
    vram: float
    budget: float
    fits: bool
    is_tight: bool
    row_tokens: int
    checkpointed_layers: int
    layers: int
    moment: str
    terms: tuple[Term, ...]
    peak: float
    longest: int
    largest_row: int
    longest_sequence: int
    largest_rank: int | None
    checkpointing: dict[int, int | None]
    times: tuple[Time, ...]
    mean_tokens: float
    examples: int | None
    examples_per_step: int
    flags: tuple[str, ...]
    flags_suffice: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @property
    def static(self) -> float:
        """Bytes in use before the first row."""
        return sum(term.bytes for term in self.terms if term.is_static)


def plan(
    recipe: Any,
    *,
    vram: float = 24.0,
    mean_tokens: float | None = None,
    examples: int | None = None,
    choice: tuple[int, int] | None = None,
) -> VramPlan:
    """Plan a recipe.

    Args:
        recipe: A `trl_ext.recipe.Recipe`, or the path of one.
        vram: Memory of the card, GiB.
        mean_tokens: Mean tokens of an example, if known; used for times only.
        examples: Examples of an epoch, if known; used for times only.
        choice: Row length and checkpointed layers that a run chose, to compare the plan with its measurement.

    Raises:
        UserError: The recipe is invalid, or the model's configuration cannot be found or built.
    """
    if isinstance(recipe, str | Path):
        from trl_ext.recipe import load

        recipe = load(recipe)
    overhead = calibration.load()
    budget = max(vram - DISPLAY, 0)
    given = request.read(recipe)
    asked = _on_card(given, vram, overhead)

    def fit(asked: Request, gib: float = budget) -> Fit:
        return Fit(asked, gib * GIB, overhead)

    judged = fit(asked)
    best = judged.choose()
    tight = None if best else fit(asked, vram).choose()
    least = (asked.training.row_tokens or asked.longest, judged.most_checkpointed)
    tokens, checkpointed = choice or best or tight or least
    flags, suffice = (
        ([], True) if best else advice.flags(recipe, asked, lambda other: fit(_on_card(other, vram, overhead)))
    )
    moment, terms = _terms(asked, judged, tokens, checkpointed, overhead)
    examples = examples or asked.examples
    return VramPlan(
        model=asked.model,
        parameters=asked.shape.parameters,
        quantised=_quantised(asked),
        experts=asked.shape.experts,
        vision=asked.shape.vision,
        trained=memory.trained(asked.shape),
        vram=vram,
        budget=budget,
        fits=best is not None,
        is_tight=best is None and tight is not None,
        row_tokens=tokens,
        checkpointed_layers=checkpointed,
        layers=asked.shape.layers,
        moment=moment,
        terms=terms,
        peak=sum(term.bytes for term in terms),
        longest=asked.longest,
        largest_row=judged.largest_row(),
        longest_sequence=judged.longest_sequence(),
        largest_rank=judged.largest_rank(),
        checkpointing={size: judged.least_checkpointed(size) for size in ROWS},
        times=tuple(_time(given, card, overhead, mean_tokens, examples) for card in CARDS),
        mean_tokens=asked.mean_tokens(mean_tokens),
        examples=examples,
        examples_per_step=asked.examples_per_step,
        flags=tuple(flags),
        flags_suffice=suffice,
        notes=(*_notes(asked), *asked.sampling.notes(asked.shape, asked.storage, given.sampling.source == AUTO, vram)),
    )


def _on_card(asked: Request, gib: float, overhead: Overhead, kernel: str = memory.VARLEN) -> Request:
    """The request with what it samples from on a card of this size: `auto` is merged if that fits."""
    settled = replace(asked, sampling=asked.sampling.on_card(gib, asked.shape))
    if settled.sampling.source != AUTO:
        return settled
    merged = replace(settled, sampling=replace(settled.sampling, source=MERGED))
    if Fit(merged, max(gib - DISPLAY, 0) * GIB, overhead, kernel).choose() is not None:
        return merged
    return replace(settled, sampling=replace(settled.sampling, source=ADAPTER))


def refuse(recipe: Any, vram: float, where: str = "this card") -> None:
    """Refuse a recipe that does not fit with any choice of row length and checkpointed layers.

    A recipe that fits only if nothing else uses the card is not refused: the run shortens rows if memory runs out.

    Args:
        recipe: A `trl_ext.recipe.Recipe`.
        vram: Memory of the card, GiB.
        where: Name of the card or machine, for the message.

    Raises:
        UserError: The recipe does not fit; says what to change.
    """
    planned = plan(recipe, vram=vram)
    if planned.fits or planned.is_tight:
        return
    if planned.flags and planned.flags_suffice:
        remedy = f"Add `{' '.join(planned.flags)}`"
    else:
        remedy = "Choose a smaller model"
    raise UserError(
        f"{recipe.path} does not fit {where}. {planned.model} needs {planned.peak / GIB:.1f} GiB even with as many layers "
        f"checkpointed as allowed and one example per row, but only {planned.budget:.1f} of {vram:.1f} GiB are usable. {remedy}. "
        f"`trl-ext plan {recipe.word}` shows every part of the estimate; `--force` runs anyway."
    )


def _terms(
    asked: Request, judged: Fit, tokens: int, checkpointed: int, overhead: Overhead
) -> tuple[str, tuple[Term, ...]]:
    shape, storage = asked.shape, asked.storage
    bits = (
        storage.scheme.title
        if storage.scheme
        else f"{storage.bits}-bit"
        if storage.bits < 16
        else f"{8 * storage.weight}-bit"
    )
    kept = f"{8 * storage.weight}-bit"
    in_bits = ("linear layers", "experts") if storage.bits == 4 and shape.fused else ("linear layers",)
    static = {
        f"weights: {name} ({bits if name in in_bits else kept})": size
        for name, size in memory.weights(shape, storage).items()
    } | memory.training_state(shape, storage)
    static |= asked.sampling.static(shape, storage)
    row = asked.row(tokens, judged.kernel)
    moment, parts = memory.activations(shape, row, storage, checkpointed)
    waste = (overhead.allocator - 1) * sum(parts.values())
    found = [Term(name, size, True) for name, size in static.items()]
    found += [Term(name, size, False) for name, size in parts.items()]
    found += [Term("allocator", waste, False), Term("CUDA context", overhead.context, True)]
    return moment, tuple(term for term in found if term.bytes)


def _quantised(asked: Request) -> int:
    fused = asked.shape.fused if asked.storage.bits == 4 else 0
    return asked.shape.quantised + fused if asked.storage.bits < 16 else 0


def _time(asked: Request, card: Card, overhead: Overhead, mean_tokens: float | None, examples: int | None) -> Time:
    asked = _on_card(asked, card.memory, overhead, card.kernel)
    fit = Fit(asked, (card.memory - DISPLAY) * GIB, overhead, card.kernel)
    choice = fit.choose()
    if choice is None:
        return Time(card.name, None, None, None, None)
    tokens, checkpointed = choice
    passes = asked.training.passes
    computed = asked.examples_per_step * asked.mean_tokens(mean_tokens)
    row = asked.row(tokens, card.kernel)
    step = cards.step_seconds(card, asked.shape, row, asked.storage, checkpointed, computed, passes)
    epoch = None if examples is None else step * math.ceil(examples * asked.training.uses / asked.examples_per_step)
    return Time(card.name, tokens, checkpointed, step, epoch)


def _notes(asked: Request) -> tuple[str, ...]:
    found = list(asked.notes)
    if asked.training.needs_reference:
        found.append("Times include a reference pass, as in a first epoch.")
    shape, storage = asked.shape, asked.storage
    left = shape.experts - (shape.fused if storage.bits == 4 else 0)
    if left and storage.bits < 16:
        instead = "" if storage.bits == 4 else " With `load_in_4bit` they are stored in 4 bits."
        found.append(
            f"{left / 1e9:.1f} of {shape.parameters / 1e9:.1f} billion weights are in 3-D tensors that are not quantised. They take "
            f"{storage.weight * left / GIB:.1f} GiB in {8 * storage.weight} bits.{instead}"
        )
    if storage.weight == 4 and storage.bits < 16:
        extra = (storage.weight - 2) * (shape.kept - shape.experts) / GIB
        found.append(f"With `dtype: float32`, embeddings and LM head take {extra:.2f} GiB more than in bfloat16.")
    if asked.cannot_pack is not None:
        found.append(f"Rows are padded: {asked.cannot_pack}.")
    if shape.vision:
        found.append(
            f"{shape.vision / 1e6:.0f} million weights belong to vision or audio towers and projectors. Their activations are "
            "not counted."
        )
    return tuple(found)
