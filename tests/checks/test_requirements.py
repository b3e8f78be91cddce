"""What training needs on this machine is asked for by the verbs that train or validate, and by no other."""

import pytest

from tests.recipe.helpers import BASE, PPO, write
from trl_ext import recipe
from trl_ext.checks import packages
from trl_ext.cli import main
from trl_ext.support.errors import UserError


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", "HF_TOKEN", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def installed(monkeypatch):
    found = set()
    monkeypatch.setattr(packages, "is_installed", found.__contains__)
    return found


def needed(folder, text, base=BASE):
    path = write(folder, text, base)
    recipe.load(path)  # other verbs read it
    try:
        recipe.load(path, to_train=True)
    except UserError as error:
        assert len(error.problems) == 1, error
        return error.problems[0]
    return None


@pytest.mark.parametrize(
    ("text", "pip"),
    [
        ("report_to: wandb\n", "wandb"),
        ("report_to: [none, tensorboard]\n", "tensorboard"),
        ("attn_implementation: kernels-community/flash-attn\n", "kernels"),
        ("attn_implementation: paged|kernels-community/flash-attn\n", "kernels"),
        ("attn_implementation: flash_attention_2\n", "flash-attn"),
        ("model_init_kwargs: {attn_implementation: flash_attention_3}\n", "flash-attn-3"),
    ],
)
def test_a_package_that_is_not_there(text, pip, installed, tmp_path):
    assert f"`pip install {pip}`" in needed(tmp_path, text)
    installed.update({"wandb", "tensorboardX", "kernels"})
    assert f"`pip install {pip}`" not in str(needed(tmp_path, text))


def test_vllm(installed, tmp_path):
    assert "vLLM is not installed here" in needed(tmp_path, "use_vllm: true\n", PPO)
    installed.add("vllm")
    assert needed(tmp_path, "use_vllm: true\n", PPO) is None


def test_wandb_has_a_login(installed, tmp_path, monkeypatch):
    installed.add("wandb")
    text = "report_to: wandb\n"
    assert "has no login here. Run `wandb login`" in needed(tmp_path, text)
    assert needed(tmp_path, f"{text}env: {{WANDB_MODE: offline}}\n") is None
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert needed(tmp_path, text) is None
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    assert needed(tmp_path, text) is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert "has no login here" in needed(tmp_path, text)


def test_the_hub_has_a_login(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    text = "push_to_hub: true\n"
    assert "HF_HUB_OFFLINE forbids the network" in needed(tmp_path, text)  # as tests run
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "there is no login to the Hub here. Run `hf auth login`" in needed(tmp_path, text)
    assert needed(tmp_path, f"{text}hub_token: hf_0123\n") is None
    monkeypatch.setenv("HF_TOKEN", "hf_0123")
    assert needed(tmp_path, text) is None


def test_the_name_of_a_repository(tmp_path):
    with pytest.raises(UserError, match="a/b/c, which is not the name of a repository"):
        recipe.load(write(tmp_path, "hub_model_id: a/b/c\n"))
    recipe.load(write(tmp_path, "hub_model_id: org/my-model_1.0\n"))


def test_validate_and_run_refuse_and_data_does_not(installed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(write(tmp_path, "report_to: wandb\n"))
    for verb in ("validate", "run"):
        assert main([verb, path]) == 2
        assert "`pip install wandb`" in capsys.readouterr().err
    assert main(["plan", path]) == 0
