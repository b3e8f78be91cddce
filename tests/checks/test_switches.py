"""Settings that are read only beside another one are noted where that one is off, and only there."""

import pytest

from tests.checks.test_rules import NEWER
from tests.recipe.helpers import BASE, PPO, load_from
from trl_ext.checks.switches import SWITCHES
from trl_ext.methods import METHODS
from trl_ext.recipe.vocabulary import known_keys

SFT = f"{BASE}trainer: sft\n"

CASES = [
    (BASE, "hub_model_id: name/model\n", "without `push_to_hub: true`", "push_to_hub: true\n"),
    (BASE, "hub_strategy: checkpoint\n", "without `push_to_hub: true`", "push_to_hub: true\n"),
    (BASE, "bnb_4bit_quant_type: fp4\n", "without `load_in_4bit: true`", "load_in_4bit: true\nuse_peft: true\n"),
    (BASE, "use_bnb_nested_quant: true\n", "without `load_in_4bit: true`", "load_in_4bit: true\nuse_peft: true\n"),
    (BASE, "eval_steps: 20\n", "without `eval_strategy`", "eval_strategy: steps\n"),
    (BASE, "bf16_full_eval: true\n", "without `eval_strategy`", "eval_on_start: true\n"),
    (BASE, "save_total_limit: 2\nsave_strategy: no\n", "without checkpoints (`save_strategy` is no)", None),
    (BASE, "save_steps: 20\nsave_strategy: epoch\n", "with `save_strategy` (line 4) epoch", None),
    (BASE, "logging_steps: 5\nlogging_strategy: epoch\n", "with `logging_strategy` (line 4) epoch", None),
    (BASE, "greater_is_better: true\n", "without `metric_for_best_model`", "metric_for_best_model: loss\neval_strategy: steps\n"),
    (BASE, "precompute_ref_batch_size: 2\n", "without `precompute_ref_log_probs: true`", "precompute_ref_log_probs: true\n"),
    (BASE, "run_name: mine\n", "without a tracker in `report_to`", "report_to: [tensorboard]\n"),
    (BASE, "trackio_space_id: name/space\n", "without `report_to: trackio`", "report_to: trackio\n"),
    (BASE, "fsdp_config: {min_num_params: 2000}\n", "without `fsdp`", None),
    (BASE, "gradient_checkpointing: false\ngradient_checkpointing_kwargs: {use_reentrant: true}\n",
     "without `gradient_checkpointing: true`", None),
    (SFT, "packing_strategy: wrapped\n", "without `packing: true`", "packing: true\n"),
    (SFT, "length_column_name: tokens\n", "no effect", "train_sampling_strategy: group_by_length\n"),
    (PPO, "vllm_mode: server\n", "without `use_vllm: true`", "use_vllm: true\n"),
    (PPO, "num_completions_to_print: 3\n", "without `log_completions: true`", "log_completions: true\n"),
    (PPO, "transformers_continuous_batching_config: {num_blocks: 8}\n", "without `use_transformers_continuous_batching: true`",
     "use_transformers_continuous_batching: true\n"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "text", "said", "switch"), CASES, ids=[case[1].partition(":")[0] for case in CASES])
def test_it_is_noted_where_the_switch_is_off(base, text, said, switch, tmp_path):
    found = [note for note in load_from(tmp_path, base + text).notes if "has no effect" in note]
    assert len(found) == 1 and said in found[0] and found[0].endswith(".")
    if switch is not None:
        notes = load_from(tmp_path, base + text + switch).notes
        assert not [note for note in notes if f"`{text.partition(':')[0]}`" in note and "has no effect" in note]


@pytest.mark.parametrize(
    "text",
    [
        "eval_steps:\n",
        "hub_strategy: every_save\n",
        "bnb_4bit_quant_type: nf4\n",
        "logging_steps: 5\n",
        "do_train: false\n",
    ],
)
def test_a_default_that_is_written_out_is_not_spoken_of(text, tmp_path):
    assert load_from(tmp_path, BASE + text).notes == []


def test_the_table_names_settings_and_turns_them_on():
    everywhere = set(NEWER).union(*map(known_keys, METHODS))
    for switch in SWITCHES:
        assert {*switch.reads, *switch.also, *switch.example} <= everywhere
        for key in switch.keys:
            assert key in everywhere or (key.endswith("_") and any(name.startswith(key) for name in everywhere)), key
