"""A recipe that goes on from what another one beside it trains."""

import pytest

from tests.recipe.helpers import RATE
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.support.errors import UserError

REWARD = "trainer: reward\nmodel_name_or_path: embedded\ndataset_name: embedded\nuse_peft: true\n"
PPO = "trainer: ppo\nmodel_name_or_path: embedded\ndataset_name: embedded\nuse_peft: true\nreward_adapter: runs/my-reward\n"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Writes both recipes into a folder; runs would go elsewhere."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()

    def write(reward: str = REWARD, ppo: str = PPO):
        (folder / "my-reward.yaml").write_text(reward)
        (folder / "my-ppo.yaml").write_text(ppo)
        return folder / "my-ppo.yaml"

    return write


@pytest.mark.parametrize("trainer", ["ppo", "online"])
def test_what_is_awaited_is_a_note(stages, trainer):
    read = recipe.load(stages(ppo=PPO.replace("trainer: ppo", f"trainer: {trainer}")), RATE)
    assert read.notes == [read.awaits]
    assert read.awaits.startswith(
        "`reward_adapter` (line 5) is runs/my-reward, which does not exist yet: train it first"
    )


def test_running_it_is_refused_with_the_command_that_comes_first(stages, tmp_path, capsys):
    path = stages()
    assert main(["validate", str(path)]) == 0
    assert "Note: `reward_adapter`" in capsys.readouterr().out
    assert main(["run", str(path)]) == 2
    assert f"train it first with `trl-ext run {path.parent}/my-reward.yaml`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("reward", "ppo"),
    [
        (REWARD, PPO.replace("runs/my-reward", "runs/other-reward")),
        (REWARD, PPO.replace("runs/my-reward", "elsewhere/my-reward")),
        (REWARD.replace("trainer: reward", "trainer: sft"), PPO),
        (REWARD.replace("model_name_or_path: embedded", "model_name_or_path: org/other"), PPO),
    ],
    ids=["no such recipe", "another folder", "no reward model", "another base"],
)
def test_any_other_folder_that_is_absent_is_a_mistake(stages, reward, ppo):
    with pytest.raises(UserError, match=r"`reward_adapter` \(line 5\) is .*, which holds no adapter_config\.json"):
        recipe.load(stages(reward, ppo))


def test_nothing_is_awaited_once_the_folder_is_there(stages, tmp_path):
    path = stages()
    (tmp_path / "runs" / "my-reward").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        recipe.load(path)
