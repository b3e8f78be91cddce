"""Kill a run many times, resume it each time, and compare its adapter with that of an uninterrupted run.

    make soak                            20 kills of each kind of run, a quarter of an hour
    make soak ARGS="dpo grpo --kills 5"
    make soak ARGS="ppo-rloo"            `trainer: ppo` with `advantage: rloo`

The run is a small one of the command line: the embedded model in 4 bits, AdamW in 8 bits, dropout, a checkpoint every
second step of which two are kept. Kills are spread evenly over its phases: loading, sampling, log-probabilities, rewards, updates,
the moments of a save, what is between them, and the end. The uninterrupted run is a new process of Python; the others are forked from
a server that has imported the libraries (`benchmarks.lives`). Needs no GPU.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from benchmarks import lives
from benchmarks.killed import LOADING, SAVING
from trl_ext import demo
from trl_ext.checkpoints import found, manifest, staging
from trl_ext.rl import advantages

STEPS, EVERY = 8, 2
AHEAD = EVERY
"""Steps after the one a run resumes at in which it is killed, so that kills are spread over all of its steps."""
RECIPE = "soak.yaml"
OF_ROLLOUTS = {
    "reward_funcs": ["sentiment"],
    "max_completion_length": 16,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 6,  # three steps, and twice over the same rollout: a checkpoint of every second is in its middle
    "num_iterations": 2,
}
KINDS: dict[str, dict[str, str]] = {
    "dpo": {},
    "grpo": {"trainer": "grpo"},
    "rloo": {"trainer": "rloo"},
    **{f"ppo-{name}": {"trainer": "ppo", "advantage": name} for name in advantages.available()},
}
"""Kinds of runs, and what their recipes differ in."""
RESULTS = Path(__file__).parent / "results" / "soak.json"


class Run:
    """One directory of the small run.

    Args:
        home: Where recipe, data and runs lie; made ready if it is not.
        name: Of the directory.
    """

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.folder = home, home / name
        self.recipe = home / RECIPE
        if not self.recipe.exists():
            prepare(home)

    def start(
        self, kill: str = "never", begin: Callable[..., int] = lives.forked, **flags: Any
    ) -> tuple[int, dict, str]:
        """Run, or resume if there is a checkpoint: exit code, what `benchmarks.killed` reports, what was printed.

        Args:
            kill: Where, see `benchmarks.killed`.
            begin: Starts the process: `lives.forked` or `lives.fresh`.
            flags: Of the command line.
        """
        report, printed = self.home / "report.json", self.home / "printed.txt"
        report.unlink(missing_ok=True)
        flags = {"output_dir": self.folder, **flags}
        if found.newest_first(self.folder):
            flags["resume_from_checkpoint"] = "true"
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # stopped before its first checkpoint
        words = [word for name, given in flags.items() for word in (f"--{name}", str(given))]
        code = begin(
            [str(report), kill, "run", str(self.recipe), *words],
            printed,
            OMP_NUM_THREADS="1",
            TRL_EXT_CACHE=str(self.home / "cache"),
        )
        facts = json.loads(report.read_text()) if report.exists() else {}
        return code, facts, printed.read_text(encoding="utf-8", errors="replace")

    @property
    def step(self) -> int:
        """Of the checkpoint a resume would begin at; 0 without one."""
        checkpoint = found.latest(self.folder)
        return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])

    def adapter(self) -> bytes:
        return (self.folder / "adapter_model.safetensors").read_bytes()

    def begin_from(self, other: "Run", step: int) -> None:
        """Become a copy of another run as it was after a step."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        shutil.copytree(other.folder / f"checkpoint-{step}", self.folder / f"checkpoint-{step}")
        shutil.copy(other.folder / "metrics.jsonl", self.folder)


def prepare(home: Path, kind: str = "dpo") -> None:
    """Write data and recipe of a small run of a kind of `KINDS`."""
    lines = (demo.DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    (home / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "model_name_or_path": "embedded",
        "load_in_4bit": True,
        "use_peft": True,
        "lora_r": 32,  # × 192 = 6144: from 4096 elements bitsandbytes keeps its state in 8 bits
        "lora_dropout": 0.1,
        "disable_dropout": False,
        "lora_target_modules": "all-linear",
        "dataset_name": str(home / "pairs.jsonl"),
        "loss": "dpo",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_8bit",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "max_length": 64,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": EVERY,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    chosen = KINDS[kind]
    if chosen:
        for name in ("loss", "max_length", "lora_dropout", "disable_dropout"):
            del settings[name]
        settings |= chosen | OF_ROLLOUTS
        if "advantage" not in chosen or advantages.describe(chosen["advantage"]).needs_groups:
            settings["num_generations"] = 4
    (home / RECIPE).write_text(yaml.safe_dump(settings), encoding="utf-8")


def uninterrupted(
    home: Path, name: str = "whole", begin: Callable[..., int] = lives.forked
) -> tuple[Run, dict[str, Any]]:
    """Run without interruption; returns the run and its report."""
    whole = Run(home, name)
    code, facts, printed = whole.start(begin=begin)
    assert code == 0, printed[-3000:]
    return whole, facts


def eight_bit_states(checkpoint: Path) -> list[str]:
    """Names of the parameters' states a checkpoint keeps in 8 bits."""
    states = torch.load(checkpoint / manifest.OPTIMIZER, weights_only=True)["state"]
    return [f"{number}.{name}" for number, state in states.items() for name in _bytes_in(state)]


def _bytes_in(state: dict[str, Any]) -> list[str]:
    found_here = [name for name, value in state.items() if getattr(value, "dtype", None) == torch.uint8]
    return found_here + [name for value in state.values() if isinstance(value, dict) for name in _bytes_in(value)]


def kill(run: Run, where: str) -> dict[str, Any]:
    """Start or resume a run that is killed; returns the state it leaves."""
    before = run.step
    code, facts, printed = run.start(where, save_total_limit=2)
    newest = found.newest_first(run.folder)
    return {
        "phase": facts.get("phase", ""),
        "at_step": facts.get("at_step"),
        "where": facts.get("where", ""),
        "was_killed": code == -9,
        "exit_code": code,
        "from_step": before,
        "step": run.step,
        "is_newest_whole": not newest or manifest.damage(newest[0]) is None,
        "left_aside": (run.folder / staging.FOLDER).exists(),
        "error": "" if code in (0, -9) else printed.strip()[-400:],
    }


def place(facts: dict[str, Any], phase: str, step: int, rng: random.Random, ahead: int = AHEAD) -> str | None:
    """A random place in a phase of a run that resumes at a step, as `benchmarks.killed` takes it.

    Args:
        facts: Report of the uninterrupted run, whose stretches from the step on are those of the resumed one.
        phase: Its name.
        step: Of the checkpoint that the run begins from.
        rng: Chooses the step, the stretch in it, a long one more often, and the time in the stretch.
        ahead: How many steps it may be away.

    Returns:
        `None` if no stretch of the phase is so near.
    """
    if phase == SAVING:
        return f"moment:{rng.randrange(len(facts['moments']))}" if step < STEPS else None
    later = [
        (at, length) for name, at, length in facts["stretches"] if name == phase and (at >= step or phase == LOADING)
    ]
    near = {at for at, length in later if length and (at <= step + ahead or phase == LOADING)}
    if not near:
        return None
    chosen = rng.choice(sorted(near))
    seconds = [length if at == chosen else 0 for at, length in later]
    (number,) = rng.choices(range(len(seconds)), seconds)
    return f"{phase}:{number}:{rng.uniform(0, seconds[number]):.4f}"


def soak(home: Path, kind: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill, resume, compare. Prints a line per start."""
    prepare(home, kind)
    rng, started = random.Random(seed), time.time()
    new, _ = uninterrupted(home, "new", lives.fresh)
    whole, facts = uninterrupted(home)
    expected = new.adapter()
    print(f"in a new process and forked: {_compared(whole.adapter() == expected)}", flush=True)
    phases = sorted({name for name, *_ in facts["stretches"]})
    plan = [*islice(cycle(phases), kills)]
    rng.shuffle(plan)
    run, records, is_same = Run(home, "killed"), [], [whole.adapter() == expected]
    while plan or not (run.folder / "adapter_config.json").exists():
        where = _next_place(facts, plan, run.step, rng)
        record = kill(run, "never" if where is None else where[1])
        if record["exit_code"] == 0:
            is_same.append(run.adapter() == expected)
            print(f"     finished at step {run.step}: {_compared(is_same[-1])}", flush=True)
            if plan:
                shutil.rmtree(run.folder)
            continue
        records.append(record)
        print(_line(len(records), record), flush=True)
        if not record["was_killed"]:
            break
        plan.remove(where[0])
    return {
        "kills": sum(record["was_killed"] for record in records),
        "phases": dict(sorted(Counter(record["phase"] for record in records).items())),
        "ended_runs": len(is_same),
        "identical_adapters": sum(is_same),
        "eight_bit_states": len(eight_bit_states(whole.folder / f"checkpoint-{STEPS}")),
        "adapter_tensors": len(load_file(whole.folder / "adapter_model.safetensors")),
        "moments_of_a_save": len(facts["moments"]),
        "minutes": round((time.time() - started) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "records": records,
    }


def _next_place(facts: dict[str, Any], plan: list[str], step: int, rng: random.Random) -> tuple[str, str] | None:
    """The first phase of the plan that has a place near the step, or else further away, and the place."""
    for ahead in (AHEAD, STEPS):
        for phase in plan:
            where = place(facts, phase, step, rng, ahead)
            if where is not None:
                return phase, where
    return None


def _compared(is_same: bool) -> str:
    return "identical adapter" if is_same else "DIFFERENT ADAPTER"


def _line(number: int, record: dict[str, Any]) -> str:
    outcome = f"killed {record['where']}" if record["was_killed"] else f"exit code {record['exit_code']}"
    state = "newest checkpoint whole" if record["is_newest_whole"] else "NEWEST CHECKPOINT BROKEN"
    aside = ", partial checkpoint left" if record["left_aside"] else ""
    return (
        f"{number:3d}  step {record['from_step']:2d} → {record['step']:2d}  {state}{aside}  {outcome}{record['error']}"
    )


def is_right(result: dict[str, Any]) -> bool:
    """Whether every kill was one, every checkpoint was whole, and every finished run has the same adapter."""
    return (
        result["identical_adapters"] == result["ended_runs"] > 0
        and result["eight_bit_states"] > 0
        and all(record["was_killed"] and record["is_newest_whole"] for record in result["records"])
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill runs many times, resume them each time, and compare the final adapters."
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"kinds of runs: {', '.join(KINDS)} (default: all)")
    parser.add_argument("--kills", type=int, default=20, help="number of kills of each (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"file for the results (default: {RESULTS.name})")
    args = parser.parse_args()
    unknown = [kind for kind in args.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    results = []
    for kind in args.kinds or KINDS:
        print(kind)
        with tempfile.TemporaryDirectory(prefix="trl-ext-soak-") as home:
            result = soak(Path(home), kind, args.kills, args.seed)
        results.append(result)
        save(args.output, kind, result)
        print(
            f"{kind}: {result['kills']} kills; {result['identical_adapters']} of {result['ended_runs']} finished runs have exactly "
            f"the adapter of the uninterrupted run; {result['eight_bit_states']} optimizer states in 8 bits; "
            f"{result['minutes']} minutes",
            flush=True,
        )
    return 0 if all(map(is_right, results)) else 1


def save(path: Path, kind: str, result: dict[str, Any]) -> None:
    """Put the result of a kind among the saved ones."""
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(saved | {kind: result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
