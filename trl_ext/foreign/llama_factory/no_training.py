"""Recognise files of LLaMA-Factory that train nothing: chat, export, prediction."""

from collections.abc import Mapping

from trl_ext.foreign.dialect import Dialect, Values

MARKS = ("infer_backend", "export_dir", "do_predict", "predict_with_generate")


def _is_written_in(values: Values) -> bool:
    """Whether it has keys of inference, and neither training data nor the switch that trains."""
    if isinstance(values.get("peft_config"), Mapping) and values["peft_config"].get("export_dir"):  # of v1
        return "train_dataset" not in values
    marks = any(values.get(key) for key in MARKS)
    is_its = "template" in values or "finetuning_type" in values or "export_dir" in values
    return marks and is_its and not values.get("do_train") and not values.get("dataset")


NO_TRAINING = Dialect(
    "LLaMA-Factory",
    {},
    _is_written_in,
    not_a_recipe="this file of LLaMA-Factory chats, exports or predicts. It trains nothing, so there is no recipe to write. `trl-ext "
    "chat RUN`, `trl-ext merge RUN --output DIR` and `trl-ext eval RUN` do this with a run.",
)
