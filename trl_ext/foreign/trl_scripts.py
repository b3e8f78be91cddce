"""Give the arguments of TRL's example scripts and of its command line that are no settings here."""

from typing import Any

from trl_ext.foreign.common import launch, of, processes
from trl_ext.foreign.dialect import Dialect
from trl_ext.foreign.meaning import Meaning, written

_WHITENING = Meaning(reason="`normalize_advantages` normalises advantages instead of rewards")


def _reward_model(value: Any) -> Meaning:
    instead = {"reward_funcs": [value]}
    adapter = written({"reward_adapter": value})
    return Meaning(instead, advice=f"write {written(instead)} for a sequence classifier, or {adapter} for an adapter")


TRL_SCRIPTS = Dialect(
    "TRL's scripts",
    {
        "dataset_train_name": "dataset_train_split",
        "dataset_test_name": "dataset_test_split",
        # PPO in TRL before 1.13, and what its RLOO script takes
        "reward_model_name_or_path": "reward_funcs",
        "reward_model_path": "reward_funcs",
        "reward_model": of(_reward_model),
        "init_kl_coef": "kl_coef",
        "cliprange": "epsilon",
        "num_ppo_epochs": "num_iterations",
        "response_length": "max_completion_length",
        "whiten_rewards": _WHITENING,
        "normalize_reward": _WHITENING,
        # the launcher
        "accelerate_config": launch("--config_file FILE"),
        "config_file": launch("--config_file FILE"),
        "num_processes": of(processes),
    },
)
