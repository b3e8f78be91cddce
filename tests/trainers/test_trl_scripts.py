"""TRL's own training scripts run with nothing but the imports of configuration and trainer replaced."""

import ast
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import trl
import yaml

from tests.conftest import pairs

# script -> {what it imports from TRL: what replaces it}
SWAPS = {
    "dpo": {"DPOConfig": "PairedPreferenceConfig", "DPOTrainer": "PairedPreferenceTrainer"},
    "kto": {"KTOConfig": "UnpairedPreferenceConfig", "KTOTrainer": "UnpairedPreferenceTrainer"},
    "reward": {"RewardConfig": "RewardModelConfig", "RewardTrainer": "RewardModelTrainer"},
    "sft": {"SFTConfig": "SupervisedConfig", "SFTTrainer": "SupervisedTrainer"},
    "rloo": {"RLOOConfig": "RLOOConfig", "RLOOTrainer": "RLOOTrainer"},
    "grpo": {"GRPOConfig": "GRPOConfig", "GRPOTrainer": "GRPOTrainer"},
}


class Swap(ast.NodeTransformer):
    """Import some names of `trl` from `trl_ext.trainers`, under the names that the script uses."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.swapped: list[str] = []

    def visit_ImportFrom(self, node: ast.ImportFrom):
        theirs = [alias for alias in node.names if node.module == "trl" and alias.name in self.names]
        if not theirs:
            return node
        self.swapped += [alias.name for alias in theirs]
        node.names = [alias for alias in node.names if alias not in theirs]
        ours = [ast.alias(self.names[alias.name], asname=alias.name) for alias in theirs]
        return [node, ast.ImportFrom("trl_ext.trainers", ours, level=0)]


def original(script: str) -> Path:
    return Path(trl.__file__).parent / "scripts" / f"{script}.py"


def swapped(script: str, folder: Path) -> Path:
    """TRL's script with our classes, written to `folder`."""
    swap = Swap(SWAPS[script])
    tree = ast.fix_missing_locations(swap.visit(ast.parse(original(script).read_text(encoding="utf-8"))))
    assert sorted(swap.swapped) == sorted(SWAPS[script])
    path = folder / f"{script}.py"
    path.write_text(ast.unparse(tree), encoding="utf-8")
    return path


def rows(script: str, count: int, seed: int) -> list[dict]:
    if script in ("dpo", "reward"):
        return pairs(count, seed)
    if script == "kto":
        return [
            {"prompt": row["prompt"], "completion": row[("rejected", "chosen")[i % 2]], "label": bool(i % 2)}
            for i, row in enumerate(pairs(count, seed))
        ]
    if script == "sft":
        return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(count, seed)]
    return [{"prompt": row["prompt"]} for row in pairs(count, seed)]


def data(script: str, folder: Path) -> Path:
    """A folder of data as `datasets.load_dataset` reads one, with both splits."""
    folder.mkdir()
    for split, count in (("train", 8), ("test", 4)):
        lines = [json.dumps(row) for row in rows(script, count, seed=count)]
        folder.joinpath(f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


COMMON = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "seed": 3,
}
SETTINGS = {
    "dpo": {"loss_type": ["ipo", "hinge"], "loss_weights": [1.0, 0.5], "beta": 0.2},
    "kto": {"loss_type": "kto", "beta": 0.2},
    "reward": {"lora_task_type": "SEQ_CLS"},
    "sft": {},
    "rloo": {"reward_funcs": ["rewards.brevity"], "max_completion_length": 4},
    "grpo": {
        "reward_funcs": ["rewards.brevity"],
        "max_completion_length": 4,
        "num_generations": 2,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "beta": 0.1,
    },
}
"""Settings of a script beside the common ones."""

LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
REWARDS = "def brevity(completions, **kwargs):\n    return [-float(len(text)) for text in completions]\n"


def as_flags(settings: dict) -> list[str]:
    """Settings as a command has them, `--NAME VALUE`; some switches as a bare `--NAME` or `--no_NAME`."""
    words = []
    for name, value in settings.items():
        if name in ("use_cpu", "use_peft"):
            words.append(f"--{name}")
        elif name == "gradient_checkpointing":
            words.append(f"--no_{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run(path: Path, settings: dict, output: Path, monkeypatch, *, from_yaml: bool = False) -> tuple[list[dict], str]:
    """Run a script as a command would. Returns its logs and its model card."""
    folder = output.parent
    folder.joinpath("rewards.py").write_text(REWARDS, encoding="utf-8")
    monkeypatch.chdir(folder)
    settings = {**COMMON, **settings, "output_dir": str(output)}
    if from_yaml:
        folder.joinpath("settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setattr(
        sys, "argv", [str(path), *(["--config", "settings.yaml"] if from_yaml else as_flags(settings))]
    )
    with monkeypatch.context() as m:
        m.syspath_prepend(str(folder))
        runpy.run_path(str(path), run_name="__main__")
    state = json.loads(output.joinpath("checkpoint-2", "trainer_state.json").read_text(encoding="utf-8"))
    return state["log_history"], output.joinpath("README.md").read_text(encoding="utf-8")


def losses(logs: list[dict]) -> list[float]:
    """The losses of the two steps and of the evaluation after them."""
    return [entry[key] for entry in logs for key in ("loss", "eval_loss") if key in entry]


@pytest.mark.parametrize("from_yaml", [False, True], ids=["flags", "yaml"])
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("script", ["dpo", "kto"])
def test_preference_script_trains_what_trls_does(script, adapter, from_yaml, tiny_model, tmp_path, monkeypatch):
    given = {
        "model_name_or_path": tiny_model,
        "dataset_name": str(data(script, tmp_path / "data")),
        **SETTINGS[script],
        **adapter,
    }
    logs, _ = run(swapped(script, tmp_path), given, tmp_path / "ours", monkeypatch, from_yaml=from_yaml)
    assert len(losses(logs)) == 3
    saved = "adapter_model.safetensors" if adapter else "model.safetensors"
    assert tmp_path.joinpath("ours", saved).is_file()
    if script == "dpo":
        theirs, _ = run(original(script), given, tmp_path / "theirs", monkeypatch, from_yaml=from_yaml)
        assert losses(logs) == pytest.approx(losses(theirs), abs=2e-4)
    else:  # its order of examples and its baseline are others: at policy = reference the loss is 1 − σ(0)
        assert losses(logs)[0] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("script", ["reward", "sft", "rloo", "grpo"])
def test_other_scripts_run(script, tiny_model, tmp_path, monkeypatch):
    given = {"model_name_or_path": tiny_model, "dataset_name": str(data(script, tmp_path / "data"))}
    logs, _ = run(swapped(script, tmp_path), given | SETTINGS[script] | LORA, tmp_path / "ours", monkeypatch)
    assert len(losses(logs)) == 3 and all(map(math.isfinite, losses(logs)))
    assert tmp_path.joinpath("ours", "adapter_model.safetensors").is_file()
