"""PPO's defaults, and what it refuses in a sentence before anything is loaded."""

import pytest
import torch

from tests.trainers.helpers import lora
from tests.trainers.ppo.helpers import build, config
from trl_ext import PPOConfig


def test_defaults_are_those_of_the_papers(tmp_path):
    args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    assert (args.gamma, args.lam, args.epsilon, args.cliprange_value, args.vf_coef) == (1.0, 0.95, 0.2, 0.2, 0.1)
    assert (args.kl_estimator, args.kl_placement, args.kl_level) == ("k1", "reward", "token")
    assert args.normalize_advantages and args.num_generations == 1
    in_loss = PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, kl_placement="loss", kl_estimator="k2")
    assert in_loss.kl_level == "sequence" and not in_loss.normalize_advantages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_coef": -0.1}, "`kl_coef` is -0.1"),
        ({"beta": 0.1}, "`beta` is 0.1: PPO has one KL coefficient, `kl_coef`"),
        ({"kl_target": 6.0}, "set `kl_controller: adaptive`, or remove `kl_target`"),
        ({"kl_controller": "adaptive"}, "set `kl_target`"),
        ({"kl_controller": "adaptive", "kl_target": 0.0}, "`kl_target` is 0.0"),
        ({"kl_estimator": "k4"}, "choose one of k1, k2, k3"),
        ({"kl_placement": "advantage"}, "choose one of reward, loss"),
        ({"kl_level": "word"}, "choose one of token, sequence"),
        ({"gamma": 1.5}, "`gamma` is 1.5"),
        ({"missing_eos_penalty": -1.0}, "`missing_eos_penalty` is -1.0"),
        ({"sync_ref_model": True}, "`trainer: ppo` keeps its reference fixed"),
        (
            {"missing_eos_penalty": 1.0, "mask_truncated_completions": True},
            "which applies only to them, has no effect",
        ),
        ({"neftune_noise_alpha": 5.0}, "adds noise to the embeddings"),
        ({"torch_compile": True}, "`torch_compile` would have no effect"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` would have no effect"),
        ({"reward_clip_range": (1.0, -1.0)}, "`reward_clip_range` is .*: give two numbers, the lower one first"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        config(tmp_path, **settings)
    assert "\n" not in str(raised.value)


def test_an_adapter_that_changes_the_base_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="moves part of the weights of the base"):
        build(model, config(tmp_path), peft_config=lora(init_lora_weights="olora"))


def test_an_optimizer_that_steps_inside_the_backward_pass_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="`optim` is lomo, which updates weights inside the backward pass"):
        build(model, config(tmp_path, optim="lomo"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": None}, "no source of reward"),
        ({"peft_config": None}, "Give `peft_config`"),
        ({"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), None)}, "`optimizers` were given"),
    ],
)
def test_what_the_trainer_cannot_do_is_said_before_anything_is_loaded(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build("/nowhere/to/be/found", config(tmp_path), path=model, **options)
