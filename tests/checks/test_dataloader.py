"""Settings of data loaders that fail at the first batch, compared with torch and accelerate."""

import pytest
import torch
from transformers.trainer_pt_utils import AcceleratorConfig

from tests.recipe.helpers import BASE, PPO, load, problem
from trl_ext import recipe


@pytest.mark.parametrize("text", ["dataloader_prefetch_factor: 2\n", "dataloader_persistent_workers: true\n"])
def test_settings_of_workers_need_workers(text, tmp_path):
    key, value = text.strip().removeprefix("dataloader_").split(": ")
    with pytest.raises(ValueError):
        torch.utils.data.DataLoader([1], num_workers=0, **{key: 2 if value == "2" else True})
    assert "there are no workers" in problem(tmp_path, text)
    load(tmp_path, f"{text}dataloader_num_workers: 1\n")


def test_the_settings_of_accelerate(tmp_path):
    said = problem(tmp_path, "accelerator_config: {even_batch: true}\n")
    assert "did you mean even_batches" in said
    with pytest.raises(TypeError):
        AcceleratorConfig(even_batch=True)
    assert "holds no such file" in problem(tmp_path, "accelerator_config: nowhere.json\n")
    load(tmp_path, "accelerator_config: '{\"even_batches\": true}'\n")
    (tmp_path / "a.json").write_text('{"foo": 1}')
    assert "has `foo`" in problem(tmp_path, f"accelerator_config: {tmp_path / 'a.json'}\n")


@pytest.mark.parametrize("base", [BASE, f"{BASE}loss: kto\n", PPO])
def test_batches_that_are_no_tensors_cannot_be_dispatched(base, tmp_path):
    assert "Remove `dispatch_batches`" in problem(tmp_path, "accelerator_config: {dispatch_batches: true}\n", base)


def test_tensors_can(tmp_path):
    load(tmp_path, "trainer: sft\naccelerator_config: {dispatch_batches: true}\n")


def test_split_batches_are_even(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    text = "accelerator_config: {split_batches: true}\nper_device_eval_batch_size: 3\nper_device_train_batch_size: "
    assert "`per_device_train_batch_size` is 4: give a multiple of 3" in problem(tmp_path, f"{text}4\n")
    load(tmp_path, f"{text}6\n")


def test_names_that_a_model_is_loaded_with(tmp_path):
    """Compared with transformers, which makes the model first."""
    from trl.trainer.utils import create_model_from_path

    from trl_ext import demo
    from trl_ext.build.model import require_model_arguments
    from trl_ext.support.errors import UserError

    names = {"use_cach": False, "use_cache": False, "low_cpu_mem_usage": True, "hidden_dropout": 0.1, "subfolder": ""}
    for name, value in names.items():
        text = f"model_init_kwargs: {{{name}: {str(value).lower() or repr('')}}}\n"
        try:
            create_model_from_path(str(demo.MODEL), device_map=None, **{name: value})
        except TypeError:
            assert f"has `{name}`, which neither" in problem(tmp_path, text)
            loaded = recipe.load(tmp_path / "recipe.yaml", {"model_init_kwargs": None})

            class args:
                model_init_kwargs = {name: value}  # noqa: RUF012
                trust_remote_code = False

            with pytest.raises(UserError, match=f"has `{name}`"):
                require_model_arguments(loaded, args)
        else:
            load(tmp_path, text)
    assert "did you mean use_cache" in problem(tmp_path, "model_init_kwargs: {use_cach: false}\n")
