"""Rounds of sampling, scoring and training: on-policy preference learning in a few large steps.

Each round has a folder with its data, its recipe, its run and `round.json`, its results. Files say how far a round is, so the same
command continues wherever it was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trl_ext.evaluation.prompts import Prompts
from trl_ext.model_files import model as model_folder
from trl_ext.pairing import held_out, round_recipe
from trl_ext.pairing.make import make_pairs
from trl_ext.pairing.output import Output
from trl_ext.pairing.policy import ADAPTER, Policy
from trl_ext.pairing.prompts import part
from trl_ext.pairing.sample import BATCH, Watched
from trl_ext.pairing.scoring import Scoring
from trl_ext.pairing.settings import Sampling, Selection, changes, digest
from trl_ext.recipe import Recipe
from trl_ext.runs import resume, run
from trl_ext.runs.report import draw_curves
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.support import atomic
from trl_ext.support.errors import UserError
from trl_ext.support.run_log import log

SEEDS_APART = 1_000_003
"""Between the seeds of two rounds, whose completions would otherwise be drawn with the same random numbers."""
HOW_TO_RESUME = "What was sampled, scored and trained is kept. Run the same command again to continue."

Evaluate = Callable[[Any, Recipe, Path], None]


@dataclass(frozen=True)
class Rounds:
    """What is repeated.

    Attributes:
        recipe: Trains; its model is what the first round samples from.
        prompts: All prompts of the training data.
        per_round: Prompts of a round, which follow those of the round before; `None` for all in every round.
        held_out: Prompts to measure on; `None` if there are none.
        sampling: Of the first round; later rounds have other seeds.
        scoring: What scores completions.
        selection: Which completions become rows.
        reference: `base` or `last`.
        batch_size: Completions sampled together.
        weights: What completions are sampled from: `adapter` or `merged`.
    """

    recipe: Recipe
    prompts: Prompts
    per_round: int | None
    held_out: Prompts | None
    sampling: Sampling
    scoring: Scoring
    selection: Selection
    reference: str
    batch_size: int = BATCH
    weights: str = ADAPTER

    def policy(self, adapter: Path | None = None) -> Policy:
        """What a round samples from: the recipe's model, or the adapter of a round."""
        options = {"needs_adapter": self.scoring.needs_adapter, "weights": self.weights}
        if adapter is None:
            return Policy(self.recipe, **options)
        return Policy.of_adapter(self.recipe, adapter.resolve(), **options)

    def to_dict(self) -> dict[str, Any]:
        """Everything that a round depends on besides the rounds before, as plain values."""
        plain = {
            "policy": self.policy().facts(),
            "recipe": round_recipe.settings(self.recipe),
            "evaluation": round_recipe.evaluation(self.recipe),
            "prompts": {"n": len(self.prompts.prompts), "digest": digest(self.prompts.prompts)},
            "limit": self.per_round,
            "sampling": asdict(self.sampling),
            "scoring": self.scoring.facts(self.sampling.num_generations),
            "selection": asdict(self.selection),
            "reference": self.reference,
        }
        return json.loads(json.dumps(plain, default=str))


def begin(rounds: Rounds, directory: Path, *, overwrite: bool) -> None:
    """Record the settings, or refuse others than those that the locked folder's rounds were begun with.

    Raises:
        UserError: Settings differ, or the folder holds something else.
    """
    path = directory / "rounds.json"
    atomic.remove_torn(path, directory / "before.json", *(home / "round.json" for home in directory.glob("round-*")))
    if path.exists():
        changed = changes(json.loads(path.read_text(encoding="utf-8")), rounds.to_dict())
        if changed and not overwrite:
            raise UserError(
                f"{directory} holds rounds with other settings: {', '.join(changed[:4])}. Choose another `--output`, or add "
                "`--overwrite` to start again."
            )
        if not changed:
            return
        for each in [*directory.glob("round-*"), directory / "before.json"]:
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
    elif directory.is_dir() and any(each.name not in ("_lock", "run.log") for each in directory.iterdir()):
        raise UserError(
            f"`--output` is {directory}, a folder with files that `trl-ext pairs` did not write. Choose an empty or new folder."
        )
    atomic.write_json(path, rounds.to_dict())


def carry_out(
    rounds: Rounds, number: int, directory: Path, console: Any, watched: Watched, evaluate: Evaluate | None = None
) -> list[dict[str, Any]]:
    """Carry out the rounds that are not complete yet.

    Args:
        rounds: What is repeated.
        number: Of rounds.
        directory: Of all rounds.
        console: Prints statements.
        watched: Shows the progress of sampling and scoring.
        evaluate: Evaluates a run as its recipe's `evaluation` says.

    Returns:
        The record of the model before the first round, with `after` alone, and one per round: `samples`, see `facts.measure`; and
        `after`, see `held_out.measure`, or null.

    Raises:
        UserError: A round gives no data, or cannot be trained.
    """
    guard.last_words = lambda: HOW_TO_RESUME
    records = [_before(rounds, directory, watched)]
    adapter: Path | None = None
    for i in range(number):
        home = directory / f"round-{i + 1}"
        done = home / "round.json"
        if done.exists():
            console.print(f"round {i + 1} of {number}: already complete", markup=False)
        else:
            console.print(f"[bold]round {i + 1} of {number}[/bold] → {home}")
            atomic.write_json(done, _round(rounds, i, home, adapter, console, watched, evaluate))
        records.append(json.loads(done.read_text(encoding="utf-8")))
        adapter = home / "run"
    return records


def _before(rounds: Rounds, directory: Path, watched: Watched) -> dict[str, Any]:
    path = directory / "before.json"
    if not path.exists():
        policy = rounds.policy()
        after = _measure(rounds, policy, watched, "held-out prompts before training")
        policy.release()
        atomic.write_json(path, {"round": 0, "after": after})
    return json.loads(path.read_text(encoding="utf-8"))


def _round(
    rounds: Rounds,
    i: int,
    home: Path,
    adapter: Path | None,
    console: Any,
    watched: Watched,
    evaluate: Evaluate | None,
) -> dict[str, Any]:
    """One round; parts that are complete are not repeated."""
    sampling = dataclasses.replace(rounds.sampling, seed=rounds.sampling.seed + i * SEEDS_APART)
    made = make_pairs(
        rounds.policy(adapter),
        part(rounds.prompts, i, rounds.per_round),
        sampling,
        rounds.scoring,
        rounds.selection,
        Output.at(home / "data"),
        lambda text: console.print(text, markup=False),
        watched,
        batch_size=rounds.batch_size,
        more={"recipe": rounds.recipe.word, "round": i + 1},
    )
    model = rounds.recipe.get("model_name_or_path") if adapter is None else str(adapter.resolve())
    recipe = round_recipe.write(rounds.recipe, home / "recipe.yaml", home / "data", model, rounds.reference)
    _train(recipe, home / "run", console)
    policy = rounds.policy(home / "run")
    after = _measure(rounds, policy, watched, f"held-out prompts after round {i + 1}")
    policy.release()
    if recipe.evaluation is not None and evaluate is not None:
        _evaluate(recipe, home / "run", console, evaluate)
    return {"round": i + 1, "samples": made["found"], "after": after, "win_rate": _win_rate(home / "run")}


def _train(recipe: Recipe, directory: Path, console: Any) -> None:
    """Train a round, from its last checkpoint if it was stopped; nothing if it is trained."""
    from accelerate.utils.memory import clear_device_cache

    if resume.is_finished(directory) and model_folder.problem(str(directory)) is None:
        return
    checkpoint = resume.latest_checkpoint(directory)
    if checkpoint is None:
        shutil.rmtree(directory, ignore_errors=True)  # stopped before its first checkpoint
    try:
        with log.open():
            trained = run.train(recipe, directory, checkpoint, console)
    except Interrupted as error:
        raise Interrupted(HOW_TO_RESUME) from error
    guard.last_words = lambda: HOW_TO_RESUME
    draw_curves(recipe, directory)
    trained.built.trainer.accelerator.end_training()
    vars(trained.built.trainer).clear()  # its parts refer to each other and to the model
    del trained
    clear_device_cache(garbage_collection=True)


def _measure(rounds: Rounds, policy: Policy, watched: Watched, title: str) -> dict[str, Any] | None:
    if rounds.held_out is None:
        return None
    return held_out.measure(policy, rounds.held_out, rounds.sampling, rounds.scoring, watched, title)


def _evaluate(recipe: Recipe, directory: Path, console: Any, evaluate: Evaluate) -> None:
    try:
        evaluate(console, recipe, directory)
    except UserError as error:
        console.print(f"The recipe's `evaluation` was not carried out. {error}", markup=False)


def _win_rate(directory: Path) -> dict[str, Any] | None:
    """Of a judge in the recipe's `evaluation`, against the model that the round started from."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("judged-*.json"))]
    return next((record["win_rate"] for record in records), None)
