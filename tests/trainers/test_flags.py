"""TRL's and transformers' parsers read every field of our configurations, from flags, from YAML and from nothing.

Fields that are TRL's are parsed as TRL's own configuration parses them; ours become the value that Python code would give.
"""

import dataclasses
import json
import types
import typing
from enum import Enum
from functools import cache
from typing import Any

import pytest
import yaml
from transformers import HfArgumentParser
from trl import GRPOConfig, TrlParser

from trl_ext.methods import METHODS, imported
from trl_ext.rl.policy_gradient import OF_ONE_OBJECTIVE

CPU = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": "none"}
KINDS = tuple(METHODS)
PARSERS = {"trl": TrlParser, "transformers": HfArgumentParser}

WEIGHTS = [0.5, 2, "auto"]
VALUES = {
    "loss": ["ipo", {"ipo": 1, "hinge": 0.1}],
    "loss_kwargs": [{"beta": 0.3}, {"dpo": {"beta": 0.3}}],
    "packing": [True, False],
    "reference_cache": [True, False],
    "row_tokens": [4096, "auto"],
    "gradient_checkpointing": [True, False, "auto"],
    "logging_nan_inf_filter": [True, False],
    "lora_dtype": ["float32", "bfloat16"],
    "fused_kernels": ["auto", "none"],
    "skip_nonfinite_steps": [3],
    "resume_changed": [True, False],
    "loss_type": [["ipo"], ["sigmoid", "hinge"]],
    "beta": [0.3],
    "label_smoothing": [0.1],
    "discopop_tau": [0.05],
    "f_divergence_type": ["reverse_kl", "forward_kl"],
    "f_alpha_divergence_coef": [0.5],
    "desirable_weight": WEIGHTS,
    "undesirable_weight": WEIGHTS,
    "train_sampling_strategy": ["random", "sequential"],
    "missing_eos_penalty": [1.5],
    "reward_adapter": ["runs/reward"],
    "disable_dropout": [True, False],
    "kl_coef": [0.1],
    "kl_estimator": ["k1"],
    "kl_placement": ["reward"],
    "kl_level": ["token"],
    "kl_controller": ["adaptive"],
    "kl_target": [6.0],
    "kl_horizon": [500],
    "gamma": [0.99],
    "lam": [0.9],
    "critic_learning_rate": [1e-4],
    "vf_coef": [0.2],
    "cliprange_value": [0.1],
    "num_generations": [2],
    "normalize_advantages": [True, False],
    "advantage": ["rloo", "remax"],
    "scale_rewards": ["batch"],
    "loss_aggregation": ["sequence"],
    "policy_objective": ["cispo"],
    "importance_sampling_level": ["sequence_sum"],
    "delta": [2.5],
    "reference": ["base"],
    "humanline": [True, False],
    "humanline_log_epsilon_p": [-0.5],
    "humanline_log_epsilon_r": [0.5],
    "sampling_weights": ["adapter"],
    "vllm_importance_sampling_correction": [True, False],
    "vllm_importance_sampling_mode": ["token_mask"],
    "vllm_importance_sampling_clip_max": [2.5],
    "vllm_importance_sampling_clip_min": [0.5],
    "multi_objective_aggregation": ["normalize_then_sum"],
    "use_bias_correction_kl": [True, False],
    **{key: [1.5] for keys in OF_ONE_OBJECTIVE.values() for key in keys},
}
"""Values of each field that our configurations add or declare again."""

WITH = {
    "humanline": {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0},
    "discopop_tau": {"loss": "discopop"},
    "f_alpha_divergence_coef": {"f_divergence_type": "alpha_divergence"},
    "kl_controller": {"kl_target": 6.0},
    "kl_target": {"kl_controller": "adaptive"},
    "kl_horizon": {"kl_controller": "adaptive", "kl_target": 6.0},
    "loss_kwargs": {"loss": {"dpo": 1, "hinge": 1}},
    "scale_rewards": {"advantage": "grpo"},
    **{key: {"policy_objective": name} for name, keys in OF_ONE_OBJECTIVE.items() for key in keys},
}
"""What a value needs beside it."""

OF_THE_KIND = {
    ("unpaired", "loss"): ["apo_zero_unpaired", {"kto": 1, "apo_zero_unpaired": 0.1}],
    ("unpaired", "loss_type"): ["apo_zero_unpaired"],
    ("unpaired", "loss_kwargs"): [{"beta": 0.3}, {"kto": {"beta": 0.3}}],
    ("ppo", "beta"): [],  # refused
    **{(kind, key): [] for kind in ("grpo", "rloo") for key in ("gamma", "lam")},  # refused
    **{("grpo", key): [] for key in ("kl_controller", "kl_target", "kl_horizon")},  # they need a `beta` above 0
    ("grpo", "loss_type"): ["dr_grpo", "bnpo"],
    **{
        ("grpo", key): []  # refused, since it is not reproduced
        for key in (
            "cast_lm_head_to_fp32",
            "entropy_coef",
            "entropy_coef_delta",
            "entropy_coef_max",
            "entropy_coef_min",
            "entropy_target",
            "log_completions_hub_repo",
            "max_tool_calling_iterations",
            "off_policy_mask_threshold",
            "top_entropy_quantile",
            "use_adaptive_entropy",
            "vllm_importance_sampling_cap",
        )
    },
}
"""Values that differ between kinds of training."""


def config_class(kind: str) -> type:
    return imported(METHODS[kind].config)


def parent(kind: str) -> type:
    """The configuration of TRL that ours is built on."""
    return next(cls for cls in config_class(kind).__mro__ if cls.__module__.startswith("trl."))


def declared_here(kind: str) -> set[str]:
    """Names of the fields that trl_ext declares."""
    ours = [cls for cls in config_class(kind).__mro__ if cls.__module__.startswith("trl_ext.")]
    return {name for cls in ours for name in vars(cls).get("__annotations__", {})} & {
        field.name for field in dataclasses.fields(config_class(kind))
    }


@cache
def parser(name: str, cls: type) -> Any:
    return PARSERS[name]((cls,))


def flags(settings: dict[str, Any]) -> list[str]:
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return words


def from_flags(name: str, cls: type, settings: dict[str, Any]) -> Any:
    return parser(name, cls).parse_args_into_dataclasses(flags(settings), look_for_args_file=False)[0]


def from_yaml(name: str, cls: type, settings: dict[str, Any], folder) -> Any:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    if name == "trl":
        return TrlParser((cls,)).parse_args_and_config(["--config", str(path)])[0]
    return parser(name, cls).parse_yaml_file(str(path))[0]


def values_of(config: Any) -> dict[str, Any]:
    return {
        field.name: value.value if isinstance(value := getattr(config, field.name), Enum) else value
        for field in dataclasses.fields(config)
        if field.name not in ("run_name", "logging_dir", "parallelism_config", "accelerator_config")
    }


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_nothing_it_is_the_default(kind, name, tmp_path):
    cls = config_class(kind)
    expected = values_of(cls(**CPU))
    assert values_of(from_flags(name, cls, CPU)) == expected
    assert values_of(from_yaml(name, cls, CPU, tmp_path)) == expected


CASES = [
    (kind, key, value)
    for kind in KINDS
    for key in sorted(declared_here(kind))
    for value in (OF_THE_KIND[kind, key] if (kind, key) in OF_THE_KIND else VALUES[key])
]


@pytest.mark.parametrize(("kind", "key", "value"), CASES)
def test_our_fields_are_read(kind, key, value, tmp_path):
    cls = config_class(kind)
    known = {field.name for field in dataclasses.fields(cls)}
    beside = {name: given for name, given in WITH.get(key, {}).items() if name in known}
    if (kind, key) == ("unpaired", "loss_kwargs"):
        beside = {"loss": {"kto": 1, "apo_zero_unpaired": 1}}
    settings = CPU | beside | {key: value}
    expected = values_of(cls(**settings))
    if not key.startswith("loss"):
        assert expected[key] == value and type(expected[key]) is type(value)
    for name in PARSERS:
        assert values_of(from_flags(name, cls, settings)) == expected
    assert values_of(from_yaml("trl", cls, settings, tmp_path)) == expected


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_switches_are_negated_as_trls(kind, name):
    """Every `--no_KEY` of TRL's exists here, and a bare `--KEY` is true."""
    ours, theirs = (options(parser(name, cls)) for cls in (config_class(kind), parent(kind)))
    assert {option for option in theirs if option.startswith("--no")} <= ours
    for key in ("gradient_checkpointing", "logging_nan_inf_filter"):
        for bare, expected in ((f"--{key}", True), (f"--no_{key}", False), (f"--no-{key.replace('_', '-')}", False)):
            if bare in ours:
                read = parser(name, config_class(kind)).parse_known_args([bare])[0]
                assert getattr(read, key) is expected, bare


def test_a_negated_switch_takes_no_value(capsys):
    with pytest.raises(SystemExit) as exit:
        parser("trl", config_class("paired")).parse_args(["--no_gradient_checkpointing", "false"])
    assert exit.value.code == 2
    assert (
        "--no_gradient_checkpointing takes no value, and 'false' is given. Remove the value."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trls_fields_are_read_as_trl_reads_them(kind, name):
    """The same text, in a flag or as a default from YAML, becomes the same value, or is refused by both."""
    cls, hints = parent(kind), typing.get_type_hints(parent(kind))
    differing = []
    for field in dataclasses.fields(cls):
        if not field.init or field.name in declared_here(kind):
            continue
        for value in samples(hints[field.name]):
            results = [
                read(parser(name, one), field.name, value, in_flag=in_flag)
                for in_flag in (True, False)
                for one in (config_class(kind), cls)
            ]
            if results[0] != results[1] or results[2] != results[3]:
                differing.append((field.name, value, results))
    assert not differing


def test_bad_values_are_refused_with_one_sentence():
    cls = config_class("unpaired")
    with pytest.raises(ValueError, match="desirable_weight must be a number greater than 0, or 'auto', not 'much'"):
        from_flags("trl", cls, CPU | {"desirable_weight": "much"})
    with pytest.raises(ValueError, match="`row_tokens` is 'many': give a number of tokens of at least 1, or 'auto'"):
        from_flags("trl", cls, CPU | {"row_tokens": "many"})
    with pytest.raises(ValueError, match="`gradient_checkpointing` is 'some': give true, false or 'auto'"):
        from_flags("trl", cls, CPU | {"gradient_checkpointing": "some"})


def test_every_field_of_ours_has_a_value_here():
    of_grpo = {field.name for field in dataclasses.fields(GRPOConfig)}  # declared again, with TRL's types
    assert {key for kind in KINDS for key in declared_here(kind)} - of_grpo == set(VALUES) - of_grpo


def options(made: Any) -> set[str]:
    return {option for action in made._actions for option in action.option_strings}


def read(made: Any, key: str, value: Any, *, in_flag: bool) -> Any:
    """What a parser makes of a value; the word `refused` if it exits."""
    action = next(action for action in made._actions if action.dest == key)
    before = action.default
    try:
        if not in_flag:
            action.default = value
        return getattr(made.parse_known_args(flags({key: value}) if in_flag else [])[0], key)
    except SystemExit:
        return "refused"
    finally:
        action.default = before


def samples(hint: Any) -> list[Any]:
    """Some values of a type."""
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [value for argument in arguments for value in samples(argument)]
    if origin is typing.Literal:
        return list(arguments)
    if origin is list or hint is list:
        return [samples(arguments[0])[:2]]
    if origin is tuple:
        return [[samples(argument)[0] for argument in arguments]]
    if origin is dict or hint is dict:
        return [{"a": 1}]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [member.value for member in hint][:2]
    return {bool: [True, False], int: [3], float: [0.25, "5e-6"], str: ["word"], type(None): [None]}.get(hint, [])
