"""Every rule stands once, and says the same about a recipe and about a trainer's configuration."""

from collections import Counter
from pathlib import Path

import pytest

from tests.recipe.helpers import BASE, PPO, problem
from tests.trainers.online.test_recipe import ONLINE
from trl_ext import checks, methods
from trl_ext.checks.rule import LOSS, RULES
from trl_ext.methods import METHODS
from trl_ext.recipe.layers.layer import Layer, Place, Setting
from trl_ext.recipe.settings import Settings
from trl_ext.recipe.vocabulary import known_keys

NEWER = {"activation_checkpointing", "activation_checkpointing_kwargs"}
"""Settings that transformers has since 5.23."""

RECIPES = {
    "paired": BASE,
    "unpaired": f"{BASE}loss: kto\n",
    "ppo": PPO,
    "online": ONLINE,
    "sft": f"{BASE}trainer: sft\n",
    "reward": f"{BASE}trainer: reward\n",
}

SAMPLE = [
    ("paired", {"bf16": True, "fp16": True}),
    ("paired", {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}}),
    ("paired", {"row_tokens": 0}),
    ("paired", {"row_tokens": "many"}),
    ("paired", {"ld_alpha": 5.0}),
    ("paired", {"loss": "simpo", "ld_alpha": 0.5}),
    ("paired", {"loss": "simpo", "sync_ref_model": True}),
    ("paired", {"loss": "aot", "use_weighting": True}),
    ("paired", {"sync_ref_model": True, "ref_model_mixup_alpha": 0.0}),
    ("paired", {"sync_ref_model": True, "ref_model_sync_steps": 0}),
    ("paired", {"sync_ref_model": True, "precompute_ref_log_probs": True}),
    ("paired", {"sync_ref_model": True, "reference": "base"}),
    ("paired", {"loss": "simpo", "reference": "base"}),
    ("paired", {"humanline": True}),
    ("unpaired", {"humanline": True, "sync_ref_model": True, "ref_model_mixup_alpha": 0.5}),
    ("paired", {"loss": "ipo", "humanline": True, "sync_ref_model": True, "ref_model_mixup_alpha": 1.0}),
    (
        "paired",
        {"humanline": True, "humanline_log_epsilon_p": 0.5, "sync_ref_model": True, "ref_model_mixup_alpha": 1.0},
    ),
    ("paired", {"humanline": True, "ld_alpha": 0.5, "sync_ref_model": True, "ref_model_mixup_alpha": 1.0}),
    ("paired", {"torch_compile": True}),
    ("paired", {"torch_compile_mode": "default"}),
    ("reward", {"auto_find_batch_size": True}),
    ("paired", {"deepspeed": "zero3.json"}),
    ("paired", {"label_smoothing_factor": 0.1}),
    ("paired", {"train_sampling_strategy": "group_by_length"}),
    ("paired", {"gradient_checkpointing_kwargs": {"every_n_layers": 2}}),
    ("sft", {"gradient_checkpointing_kwargs": {"selective": True}}),
    ("paired", {"optim_args": "momentum"}),
    ("paired", {"report_to": "wnadb"}),
    ("paired", {"load_best_model_at_end": True}),
    ("paired", {"weight_decay": -1.0}),
    ("paired", {"skip_nonfinite_steps": -1}),
    ("unpaired", {"optim": "lomo"}),
    ("unpaired", {"max_length": 0}),
    ("ppo", {"beta": 0.1}),
    ("ppo", {"kl_coef": -0.1}),
    ("ppo", {"kl_estimator": "k4"}),
    ("ppo", {"kl_target": 6.0}),
    ("ppo", {"kl_controller": "adaptive"}),
    ("ppo", {"kl_controller": "adaptive", "kl_target": 3.0, "kl_coef": 0.0}),
    ("ppo", {"gamma": 1.5}),
    ("ppo", {"num_generations": 0}),
    ("ppo", {"sync_ref_model": True}),
    ("ppo", {"neftune_noise_alpha": 5.0}),
    ("ppo", {"optim": "galore_adamw_layerwise"}),
    ("ppo", {"mask_truncated_completions": True, "missing_eos_penalty": 1.0}),
    ("ppo", {"sampling_weights": "merged", "disable_dropout": False}),
    ("ppo", {"vllm_importance_sampling_clip_min": 3.0}),
    ("ppo", {"vllm_importance_sampling_clip_max": -1.0}),
    ("online", {"sampling_weights": "merged", "disable_dropout": False}),
    ("online", {"num_generations": 1}),
    ("online", {"num_generations": 3}),
    ("online", {"epsilon": 0.1}),
    ("online", {"reward_clip_range": [1.0, -1.0]}),
    ("online", {"loss": "aot"}),
    ("sft", {"neftune_noise_alpha": 5.0, "packing": True}),
    ("sft", {"neftune_noise_alpha": 5.0, "padding_free": True}),
    ("sft", {"auto_find_batch_size": True}),
    ("sft", {"skip_nonfinite_steps": -1}),
    ("reward", {"fsdp": "full_shard"}),
]


def lines(settings):
    return "".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}\n" for key, value in settings.items()
    )


@pytest.mark.parametrize(
    ("kind", "settings"), SAMPLE, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_a_recipe_and_a_configuration_are_refused_with_the_same_sentence(kind, settings, tmp_path):
    base = RECIPES[kind].replace("loss: kto\n", "") if "loss" in settings else RECIPES[kind]
    said = problem(tmp_path, lines(settings), base)
    config = methods.imported(METHODS[kind].config)
    with pytest.raises(ValueError) as raised:
        config(output_dir=str(tmp_path), use_cpu=True, **({"bf16": False} | settings))
    first = base.count("\n") + 1
    for number in range(first, first + len(settings)):
        said = said.replace(f" (line {number})", "")
    assert str(raised.value) == said


@pytest.mark.parametrize("kind", METHODS)
def test_every_configuration_is_judged(kind, tmp_path):
    with pytest.raises(ValueError, match="`weight_decay` is -1"):
        methods.imported(METHODS[kind].config)(output_dir=str(tmp_path), use_cpu=True, bf16=False, weight_decay=-1.0)


def test_dictionaries_of_a_configuration_may_be_json(tmp_path):
    config = methods.imported(METHODS["paired"].config)
    given = {"output_dir": "{runs}", "use_cpu": True, "bf16": False}
    assert config(**given, gradient_checkpointing_kwargs='{"use_reentrant": false}').output_dir == "{runs}"
    with pytest.raises(ValueError, match="`gradient_checkpointing_kwargs` sets offload"):
        config(**given, gradient_checkpointing_kwargs='{"offload": true}')


def test_no_rule_is_registered_twice():
    assert [name for name, count in Counter(rule.name for rule in RULES).items() if count > 1] == []
    assert len({id(rule.judge) for rule in RULES}) == len(RULES) > 100


def test_every_file_of_rules_is_a_theme():
    folder = Path(checks.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "from trl_ext.checks.rule import" in path.read_text("utf-8")}
    assert {rule.name.partition(".")[0] for rule in RULES} <= {*checks.THEMES}
    assert files - {"__init__"} == {*checks.THEMES}


@pytest.mark.parametrize("kind", METHODS)
def test_every_rule_is_about_settings_that_exist(kind):
    """And each kind of training is judged by some."""
    settings = Settings(Layer(), METHODS[kind], None, None)
    assert 30 < sum(rule.is_judged(settings) for rule in RULES) < len(RULES)
    everywhere = {LOSS, "env"}.union(*(known_keys(name) for name in METHODS))
    assert {key for rule in RULES for key in rule.reads} - everywhere <= NEWER


class Recording(Settings):
    """Settings that remember which were read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.read.add(key)
        return super().__contains__(key)


@pytest.mark.parametrize("kind", METHODS)
def test_a_rule_reads_the_settings_it_declares_and_no_others(kind, tmp_path):
    """Judged with every switch on, so that rules get past their first condition."""
    fields = {key: field for key, field in known_keys(kind).items() if field is not None}
    on = {key: Setting(True, Place(f"`{key}`")) for key, field in fields.items() if field.default is False}
    for layer in (Layer(), Layer(on)):
        for rule in RULES:
            settings = Recording(layer, METHODS[kind], None, tmp_path)
            if LOSS in rule.reads or not rule.is_judged(settings):
                continue
            settings.read.clear()
            list(rule.judge(settings))
            # A rule about a group of names goes through the settings that were set.
            extra = {key for key in settings.read - {*rule.reads, *rule.also} if "without_its_switch" not in rule.name}
            assert not extra, (rule.name, extra)
