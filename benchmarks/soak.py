"""Kill a run many times, resume it each time, and compare its adapter with that of an uninterrupted run.

    make soak                    20 kills: half at random times, half spread over all moments of a save
    make soak ARGS="--kills 5"
    make soak ARGS="--advantage rloo"    a run of `trainer: ppo` that is also killed in the middle of rollouts

The run is a small one of the command line: the embedded model in 4 bits, AdamW in 8 bits, dropout, a checkpoint every
second step of which two are kept. Needs no GPU.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from trl_ext import demo
from trl_ext.checkpoints import found, manifest, staging
from trl_ext.rl import advantages

STEPS, EVERY = 12, 2
RECIPE = "soak.yaml"
OF_ROLLOUTS = {
    "reward_funcs": ["sentiment"],
    "max_completion_length": 16,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 6,  # three steps, and twice over the same rollout: a checkpoint of every second is in its middle
    "num_iterations": 2,
}
ROOT = Path(__file__).parents[1]
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

    def start(self, mode: str = "never", value: float = 0, **flags: Any) -> tuple[int, dict[str, Any], str]:
        """Run, or resume if there is a checkpoint: exit code, what `benchmarks.killed` reports, what was printed."""
        report = self.home / "report.json"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.killed", str(report), mode, str(value), "run", str(self.recipe)]
        flags = {"output_dir": self.folder, **flags}
        if found.newest_first(self.folder):
            flags["resume_from_checkpoint"] = "true"
        command += [word for name, given in flags.items() for word in (f"--{name}", str(given))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXT_CACHE": str(self.home / "cache")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
        facts = json.loads(report.read_text()) if report.exists() else {}
        return done.returncode, facts, done.stdout + done.stderr

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


def prepare(home: Path, advantage: str | None = None) -> None:
    """Write data and recipe of the small run: DPO, or `trainer: ppo` with an advantage."""
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
    if advantage is not None:
        for name in ("loss", "max_length", "lora_dropout", "disable_dropout"):
            del settings[name]
        settings |= {"trainer": "ppo", "advantage": advantage, **OF_ROLLOUTS}
        if advantages.describe(advantage).needs_groups:
            settings["num_generations"] = 4
    (home / RECIPE).write_text(yaml.safe_dump(settings), encoding="utf-8")


def uninterrupted(home: Path) -> tuple[Run, dict[str, Any]]:
    """Run without interruption; returns the run and its report."""
    whole = Run(home, "whole")
    code, facts, printed = whole.start()
    assert code == 0, printed[-3000:]
    return whole, facts


def eight_bit_states(checkpoint: Path) -> list[str]:
    """Names of the parameters' states a checkpoint keeps in 8 bits."""
    states = torch.load(checkpoint / manifest.OPTIMIZER, weights_only=True)["state"]
    return [f"{number}.{name}" for number, state in states.items() for name in _bytes_in(state)]


def _bytes_in(state: dict[str, Any]) -> list[str]:
    found_here = [name for name, value in state.items() if getattr(value, "dtype", None) == torch.uint8]
    return found_here + [name for value in state.values() if isinstance(value, dict) for name in _bytes_in(value)]


def kill(run: Run, mode: str, value: float) -> dict[str, Any]:
    """Start or resume a run that is killed; returns the state it leaves."""
    before = run.step
    code, facts, printed = run.start(mode, value, save_total_limit=2)
    newest = found.newest_first(run.folder)
    return {
        "mode": mode,
        "where": facts.get("where", ""),
        "was_killed": code == -9,
        "exit_code": code,
        "from_step": before,
        "step": run.step,
        "checkpoints": [path.name for path in newest],
        "is_newest_whole": bool(newest) and manifest.damage(newest[0]) is None,
        "left_aside": (run.folder / staging.FOLDER).exists(),
        "error": "" if code in (0, -9) else printed.strip()[-400:],
    }


def soak(home: Path, kills: int, seed: int, advantage: str | None = None) -> dict[str, Any]:
    """Kill, resume, compare. Prints a line per start."""
    prepare(home, advantage)
    rng, started = random.Random(seed), time.time()
    whole, facts = uninterrupted(home)
    expected, moments = whole.adapter(), facts["moments"]
    per_step = facts["seconds"] / STEPS
    wanted = [int(i * len(moments) / max(1, kills - kills // 2)) for i in range(kills - kills // 2)]
    plan = [("moment", value) for value in wanted] + [("time", None)] * (kills // 2)
    rng.shuffle(plan)
    run, records, compared = Run(home, "killed"), [], []
    run.begin_from(whole, EVERY)
    while plan or run.step < STEPS or not (run.folder / "adapter_config.json").exists():
        mode, value = plan.pop() if plan else ("never", 0)
        if mode == "time":
            value = rng.uniform(0, per_step * (STEPS - run.step))
        record = kill(run, mode, value)
        print(_line(len(records) + 1, record), flush=True)
        if record["was_killed"]:
            records.append(record)
        elif record["exit_code"] != 0:
            records.append(record)
            break
        else:
            compared.append(run.adapter() == expected)
            print(
                f"     finished at step {run.step}: {'identical adapter' if compared[-1] else 'DIFFERENT ADAPTER'}",
                flush=True,
            )
            if mode != "never":
                plan.insert(0, (mode, value))  # the run had already finished: try again
            if plan:
                run.begin_from(whole, EVERY)
    return {
        "kills": sum(record["was_killed"] for record in records),
        "ended_runs": len(compared),
        "identical_adapters": sum(compared),
        "eight_bit_states": len(eight_bit_states(whole.folder / f"checkpoint-{STEPS}")),
        "adapter_tensors": len(load_file(whole.folder / "adapter_model.safetensors")),
        "moments_of_a_save": len(moments),
        "minutes": round((time.time() - started) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "records": records,
    }


def _line(number: int, record: dict[str, Any]) -> str:
    outcome = f"killed {record['where']}" if record["was_killed"] else f"exit code {record['exit_code']}"
    state = "newest checkpoint whole" if record["is_newest_whole"] else "NEWEST CHECKPOINT BROKEN"
    aside = ", partial checkpoint left" if record["left_aside"] else ""
    return (
        f"{number:3d}  {record['mode']:6s}  step {record['from_step']:2d} → {record['step']:2d}  {state}{aside}  {outcome}"
        f"{record['error']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill a run many times, resume it each time, and compare the final adapters."
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument(
        "--advantage",
        choices=advantages.available(),
        help="train by `trainer: ppo` with this advantage (default: by DPO)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--output", type=Path, help=f"JSON file for the result (default: {RESULTS.name}, or soak-ADVANTAGE.json)"
    )
    args = parser.parse_args()
    output = args.output or RESULTS.with_stem("-".join(filter(None, (RESULTS.stem, args.advantage))))
    with tempfile.TemporaryDirectory(prefix="trl-ext-soak-") as home:
        result = soak(Path(home), args.kills, args.seed, args.advantage)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{result['kills']} kills; {result['identical_adapters']} of {result['ended_runs']} finished runs have exactly the adapter "
        f"of the uninterrupted run; {result['eight_bit_states']} optimizer states in 8 bits; {result['minutes']} minutes"
    )
    is_right = result["identical_adapters"] == result["ended_runs"] > 0 and result["eight_bit_states"] > 0
    return 0 if is_right and all(r["was_killed"] and r["is_newest_whole"] for r in result["records"]) else 1


if __name__ == "__main__":
    sys.exit(main())
