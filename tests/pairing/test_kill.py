"""`trl-ext pairs`, killed by SIGKILL and started again, writes the bytes that it would have written anyway."""

import json
from pathlib import Path

from benchmarks import lives

ONCE = "--reward_funcs sentiment --num_generations 2 --max_new_tokens 12 --keep_truncated --limit 6 --batch_size 4".split()
ROUNDS = [*ONCE, *"--rounds 2 --save_strategy steps --save_steps 1 --max_steps 2".split()]


class Command:
    """The command, whose processes may be killed."""

    def __init__(self, recipe: Path, output: Path, words: list[str]) -> None:
        self.words = ["pairs", str(recipe), *words, "--output", str(output)]
        self.output = output
        self.report = output.with_suffix(".json")

    def start(self, kill: str = "never") -> tuple[int, dict]:
        """Exit code, and what `benchmarks.killed` reports."""
        printed = self.output.with_suffix(".txt")
        self.report.unlink(missing_ok=True)
        code = lives.forked([str(self.report), kill, *self.words], printed)
        assert self.report.exists(), printed.read_text()[-2000:]
        return code, json.loads(self.report.read_text())

    def is_killed(self, kill: str) -> str:
        """Start, be killed, and return the phase."""
        code, facts = self.start(kill)
        assert code == -9, self.output.with_suffix(".txt").read_text()[-2000:]
        return facts["phase"]


def written(folder: Path) -> dict[str, bytes]:
    """The files that do not depend on the date."""
    names = ("train.jsonl", "recipe.yaml", "round.json", "adapter_model.safetensors")
    found = [path for path in sorted(folder.rglob("*")) if path.name in names and "checkpoint-" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"HOME") for path in found}


def test_one_set_of_pairs(small_recipe, tmp_path):
    whole = Command(small_recipe, tmp_path / "whole", ONCE)
    code, facts = whole.start()
    assert code == 0
    moments = facts["moments"]
    # Data and provenance are written last: each is synced, renamed, and its folder synced.
    assert [name.split()[1] for name in moments[-6:]] == ["fsync", "replace", "fsync"] * 2
    killed = Command(small_recipe, tmp_path / "killed", ONCE)
    assert killed.is_killed("moment:0") == "writing"  # the settings
    assert killed.is_killed("sampling:1:0.02") == "sampling"  # the second batch
    # Settings are there. The next batch that is kept is torn, and is sampled again.
    assert killed.is_killed("moment:0") == "writing"
    assert killed.is_killed("rewards:0:0.001") == "rewards"
    assert not (killed.output / "train.jsonl").exists()
    remaining = killed.start("moment:1000")[1]["moments"]  # a moment that does not come: this one ends
    assert len(remaining) < len(moments)
    assert written(killed.output) == written(whole.output)
    for number in (-6, -3):  # the data is torn; the provenance is
        command = Command(small_recipe, tmp_path / f"late{-number}", ONCE)
        assert command.is_killed(f"moment:{len(moments) + number}") == "writing"
        assert (command.output / "train.jsonl").exists() == (number == -3)
        assert not (command.output / "provenance.json").exists()
        assert command.start()[0] == 0
        assert written(command.output) == written(whole.output)
        assert not [*command.output.rglob("*.tmp")]


def test_rounds(small_recipe, tmp_path):
    whole = Command(small_recipe, tmp_path / "whole", ROUNDS)
    assert whole.start()[0] == 0
    killed = Command(small_recipe, tmp_path / "killed", ROUNDS)
    assert killed.is_killed("moment:0") == "writing"  # rounds.json
    assert killed.is_killed("update:2:0.01") == "update"  # the second step of the first round, whose first is saved
    assert (killed.output / "round-1" / "run" / "checkpoint-1").exists()
    assert killed.is_killed("measuring:0:0.02") == "measuring"
    assert killed.start()[0] == 0
    assert "round-2/run/adapter_model.safetensors" in written(killed.output)
    assert written(killed.output) == written(whole.output)
    assert not [*killed.output.rglob("*.tmp")]
