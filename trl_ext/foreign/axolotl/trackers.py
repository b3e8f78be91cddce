"""Give axolotl's keys of trackers. Their settings are environment variables, which axolotl sets by the names of its keys."""

from typing import Any

from trl_ext.foreign.axolotl.kind import is_off, unless_off
from trl_ext.foreign.common import DEFAULT, UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

NAMED_BY = {
    "wandb": "wandb_project",
    "mlflow": "mlflow_experiment_name",
    "comet_ml": "comet_project_name",
    "trackio": "trackio_project_name",
    "swanlab": "swanlab_project",
}
"""Trackers of `report_to`, and the key that turns each of them on by its presence."""

SWITCHES = {
    "use_wandb": "wandb",
    "use_mlflow": "mlflow",
    "use_comet": "comet_ml",
    "use_trackio": "trackio",
    "use_swanlab": "swanlab",
    "use_tensorboard": "tensorboard",
}

RUN_NAMES = {
    "wandb": "wandb_name",
    "mlflow": "mlflow_run_name",
    "trackio": "trackio_run_name",
    "swanlab": "swanlab_experiment_name",
}

VARIABLES = {
    "wandb_project": "WANDB_PROJECT",
    "wandb_entity": "WANDB_ENTITY",
    "wandb_run_id": "WANDB_RUN_ID",
    "wandb_mode": "WANDB_MODE",
    "wandb_watch": "WANDB_WATCH",
    "wandb_log_model": "WANDB_LOG_MODEL",
    "mlflow_tracking_uri": "MLFLOW_TRACKING_URI",
    "mlflow_experiment_name": "MLFLOW_EXPERIMENT_NAME",
    "hf_mlflow_log_artifacts": "HF_MLFLOW_LOG_ARTIFACTS",
    "comet_workspace": "COMET_WORKSPACE",
    "comet_project_name": "COMET_PROJECT_NAME",
    "comet_experiment_key": "COMET_EXPERIMENT_KEY",
    "comet_mode": "COMET_START_MODE",
    "comet_online": "COMET_START_ONLINE",
    "swanlab_project": "SWANLAB_PROJECT",
    "swanlab_workspace": "SWANLAB_WORKSPACE",
    "swanlab_mode": "SWANLAB_MODE",
    "swanlab_web_host": "SWANLAB_WEB_HOST",
    "swanlab_api_host": "SWANLAB_API_HOST",
}
"""Keys, and the environment variable that each of them stands for."""

SECRETS = ("comet_api_key", "swanlab_api_key")


def used(values: Values) -> list[str]:
    """The trackers that a file turns on."""
    found = [tracker for tracker, key in NAMED_BY.items() if values.get(key)]
    found += [tracker for key, tracker in SWITCHES.items() if values.get(key)]
    return list(dict.fromkeys(tracker for tracker in found if values.get(f"use_{tracker}") is not False))


def _of(key: str) -> str:
    start = key.removeprefix("hf_").partition("_")[0]
    return {"comet": "comet_ml"}.get(start, start)


def _settings(key: str) -> Reader:
    """A setting of one tracker."""

    def read(value: Any, values: Values) -> Meaning:
        if is_off(value):
            return UNSET if value is None else DEFAULT
        tracker = _of(key)
        if tracker not in used(values):
            return Meaning(reason=f"{tracker} is used only with `{NAMED_BY[tracker]}`")
        on = {"report_to": used(values)} if key == NAMED_BY[tracker] else {}
        if key in VARIABLES:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            return Meaning(on | {"env": {VARIABLES[key]: text}})
        if key == "trackio_project_name":
            return Meaning(on | {"project": value})
        if key == "trackio_space_id":
            return Meaning({"trackio_space_id": value})
        if key == RUN_NAMES.get(tracker) and RUN_NAMES[used(values)[0]] == key:
            return Meaning({"run_name": value})
        return Meaning(reason=f"trl-ext hands no such setting to {tracker}")

    return read


def _switch(on: Any, values: Values) -> Meaning:
    return Meaning({"report_to": used(values)}) if on and used(values) else DEFAULT


def _secret(value: Any, values: Values) -> Meaning:
    return Meaning(
        reason="a key does not belong into a recipe", advice="remove it, and log in with the tracker's own command"
    )


OF_TRACKERS = (
    *VARIABLES, *RUN_NAMES.values(), "trackio_project_name", "trackio_space_id", "comet_experiment_config", "swanlab_description",
    "swanlab_log_model", "swanlab_lark_webhook_url", "swanlab_lark_secret", "swanlab_log_completions",
    "swanlab_completion_log_interval", "swanlab_completion_max_buffer",
)  # fmt: skip

MEANS: dict[str, str | Meaning | Reader] = {
    **{key: _settings(key) for key in dict.fromkeys(OF_TRACKERS)},
    **dict.fromkeys(SWITCHES, _switch),
    **dict.fromkeys(SECRETS, unless_off(_secret)),
    **dict.fromkeys(
        ("use_otel_metrics", "otel_metrics_host", "otel_metrics_port"),
        unless_off(Meaning(reason="metrics are written to the run's folder and to the trackers of `report_to`")),
    ),
    **dict.fromkeys(
        ("profiler_steps", "profiler_steps_start"), unless_off(Meaning(reason="PyTorch's profiler is not started"))
    ),
    "include_tokens_per_second": Meaning(reason="tokens are counted and logged without a setting"),
    "include_tkps": Meaning(reason="tokens are counted and logged without a setting"),
}
"""Every key of this part."""
