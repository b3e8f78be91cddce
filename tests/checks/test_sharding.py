"""Rules about FSDP, turned on by the recipe or by the variables that `accelerate launch` sets."""

import subprocess
import sys

import pytest

from tests.checks.test_rules import RECIPES
from trl_ext import recipe
from trl_ext.checks import sharding
from trl_ext.support.errors import UserError
from trl_ext.trainers import PairedPreferenceConfig

WORKS = "use_peft: true\nrow_tokens: 2048\ngradient_checkpointing: true\n"
LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)

    def judge(lines: str, variables: dict[str, str] | None = None, base: str = RECIPES["paired"], **kwargs) -> str:
        for name, value in (variables or {}).items():
            monkeypatch.setenv(name, value)
        path = tmp_path / "recipe.yaml"
        path.write_text(base + lines)
        try:
            recipe.load(str(path), {}, **kwargs)
        except UserError as error:
            return str(error)
        return ""

    return judge


def test_a_recipe_that_can_be_sharded_is_in_order(problems):
    assert problems("fsdp: true\n" + WORKS) == ""
    assert problems("fsdp: true\nload_in_4bit: true\nbnb_4bit_quant_storage: bfloat16\n" + WORKS) == ""
    assert problems(WORKS, LAUNCHED) == ""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "fsdp_config: {version: 1}\n",
            "is version 1, and only version 2 is supported. Set `version: 2` in `fsdp_config`.",
        ),
        ("fsdp_config: {fsdp_version: 1}\n", "Set `version: 2` in `fsdp_config`."),
        ("fsdp_config: {auto_wrap_policy: NO_WRAP}\n", "would gather the whole base on every GPU at once"),
        ("fsdp_config: {activation_checkpointing: true}\n", "so the adapter could not be saved"),
        ("fsdp_config: none.json\n", "is none.json, and there is no such file"),
        ("precompute_ref_log_probs: true\n", "scores the data before FSDP shards the base"),
        ("sync_ref_model: true\n", "mixes whole adapter weights"),
        ("bf16: false\nfp16: true\n", "Set `bf16: true` instead."),
        ("load_in_8bit: true\n", "Set `load_in_4bit: true` instead."),
        ("load_in_4bit: true\nbnb_4bit_quant_storage: uint8\n", "stored as bfloat16, float16 or float32"),
        ("use_dora: true\n", "trains other weights than the matrices of a plain LoRA"),
        ("lora_modules_to_save: [embed_tokens]\n", "trains other weights than the matrices of a plain LoRA"),
        ("dataset_streaming: true\nmax_steps: 5\n", "the length of a streamed dataset is not known"),
    ],
)
def test_what_cannot_be_sharded_is_refused(problems, lines, said):
    assert said in problems("fsdp: true\n" + WORKS + lines)


def test_an_adapter_and_fixed_rows_are_needed(problems):
    said = problems("fsdp: true\nuse_peft: false\n")
    assert "Add `use_peft: true`." in said
    assert "needs a number for `row_tokens`" in said
    assert "`gradient_checkpointing: auto` chooses them by row" in said


def test_a_launcher_is_judged_as_the_recipe_is(problems):
    said = problems("row_tokens: 2048\nuse_peft: true\n", LAUNCHED | {"FSDP_ACTIVATION_CHECKPOINTING": "true"})
    assert "FSDP, which `accelerate launch` turned on, needs the same checkpointed layers on all GPUs" in said
    assert "Remove it in the file of `accelerate launch`" in said


def test_defaults_of_the_launcher_are_known(problems):
    said = problems(WORKS, {"ACCELERATE_USE_FSDP": "true"})
    assert "Set `fsdp_version: 2` in the file of `accelerate launch`." in said
    assert "Set `fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP`" in said


@pytest.mark.parametrize("kind", ["ppo", "online", "reward", "sft"])
def test_other_trainings_are_refused(problems, kind):
    assert f"is not supported with `trainer: {kind}`" in problems("", LAUNCHED, RECIPES[kind])


def test_a_configuration_is_judged_too(tmp_path):
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "row_tokens": 512}
    with pytest.raises(ValueError, match=r"`fsdp` needs the same checkpointed layers") as raised:
        PairedPreferenceConfig(**settings, fsdp=True, precompute_ref_log_probs=True)
    assert "scores the data before FSDP shards the base" in str(raised.value)


def test_one_process_cannot_shard(problems):
    assert "there is only one. Start the run with" in problems("fsdp: true\n" + WORKS, to_train=True)


def test_the_plan_says_what_it_counts(tmp_path):
    command = [sys.executable, "-m", "trl_ext", "plan", "demo", "--fsdp", "true", "--row_tokens", "512"]
    finished = subprocess.run(
        [*command, "--gradient_checkpointing", "true"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert sharding.PLAN in " ".join(finished.stdout.split())
