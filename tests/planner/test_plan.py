"""Plans of recipes: verdicts, advice that works, and sentences for what cannot be planned."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.planner.conftest import RECIPES
from tests.planner.helpers import SHAPES, shallow
from trl_ext.planner import plan, refuse
from trl_ext.planner.cards import Passes
from trl_ext.planner.memory import GIB
from trl_ext.planner.models import MODELS
from trl_ext.planner.training import sampled
from trl_ext.recipe import load
from trl_ext.support.errors import UserError


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_card_they_name(path, shipped):
    vram = 16 if "16 GB card" in path.read_text(encoding="utf-8") else 24
    planned = plan(shipped(path.stem), vram=vram)
    assert planned.fits and planned.peak <= planned.budget * GIB
    assert planned.peak == pytest.approx(sum(term.bytes for term in planned.terms))
    assert planned.row_tokens >= planned.longest and planned.flags == ()
    assert planned.largest_row >= planned.row_tokens
    assert json.loads(json.dumps(planned.to_dict()))["model"] == planned.model


def test_fewer_layers_are_recomputed_on_a_larger_card(shipped):
    counts = [plan(shipped("llama-3.1-8b-ipo"), vram=vram).checkpointed_layers for vram in (12, 16, 20, 24, 32)]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 5 and counts[-1] == 0


def test_mixtures_of_experts(shipped):
    """Which fit a 24 GB card, by their experts in 4 bits."""
    fits = {"Qwen/Qwen3-30B-A3B": True, "openai/gpt-oss-20b": True, "mistralai/Mixtral-8x7B-Instruct-v0.1": False}
    for name, expected in fits.items():
        recipe = shipped("qwen3-30b-a3b-dpo", model_name_or_path=name)
        planned = plan(recipe)
        assert planned.fits is expected and any("experts (4-bit)" in term.name for term in planned.terms)
        assert any("builds its attention" in note for note in planned.notes) is ("gpt-oss" in name)
    with pytest.raises(UserError, match=r"Mixtral-8x7B-Instruct-v0.1 needs .* GiB .* Choose a smaller model"):
        refuse(recipe, 24)


def test_experts_that_stay_in_16_bits_are_named(shipped):
    in_8 = {"model_name_or_path": "Qwen/Qwen3-30B-A3B", "load_in_4bit": False, "load_in_8bit": True}
    planned = plan(shipped("qwen3-8b-kto", **in_8))
    assert not planned.fits
    assert any("29.0 of 30.5 billion weights are in 3-D tensors" in note for note in planned.notes)
    assert any("With `load_in_4bit` they are stored in 4 bits." in note for note in planned.notes)


def test_the_auxiliary_loss_of_a_mixture_prevents_packing(shipped):
    note = "Rows are padded: the auxiliary loss of the router counts each token of a row once"
    for coefficient, is_padded in ((None, True), (0.001, True), (0.0, False)):
        planned = plan(shipped("qwen3-30b-a3b-dpo", router_aux_loss_coef=coefficient))
        assert any(text.startswith(note) for text in planned.notes) is is_padded


@pytest.mark.parametrize(
    ("name", "vram", "changes", "expected"),
    [
        ("zephyr-7b-dpo", 8, {}, ["--lora_r 16"]),
        ("llama-3.1-8b-ipo", 14, {"gradient_checkpointing": False}, ["--gradient_checkpointing auto"]),
        ("llama-3.1-8b-ipo", 12, {"row_tokens": 32768}, ["--row_tokens auto"]),
        ("qwen3-1.7b-hh-16gb", 3.8, {"optim": "paged_adamw_8bit"}, ["--max_length 512"]),
        ("smollm3-3b-smoke", 6, {"dtype": "float32", "max_length": 4096}, None),
    ],
)
def test_flags_make_it_fit(shipped, name, vram, changes, expected):
    planned = plan(shipped(name, **changes), vram=vram)
    assert not planned.fits and planned.flags_suffice
    if expected is not None:
        assert list(planned.flags) == expected
    given = dict(flag.removeprefix("--").split(" ") for flag in planned.flags)
    given = {key: int(value) if value.isdigit() else value for key, value in given.items()}
    assert plan(shipped(name, **changes | given), vram=vram).fits
    for dropped in given:  # each is needed
        rest = {key: value for key, value in given.items() if key != dropped}
        assert not plan(shipped(name, **changes | rest), vram=vram).fits


def test_a_run_is_refused_only_if_nothing_can_be_chosen(shipped):
    refuse(shipped("llama-3.1-8b-ipo"), 24)
    tight = plan(shipped("llama-3.1-8b-ipo"), vram=9.5)
    assert tight.is_tight and not tight.fits
    refuse(shipped("llama-3.1-8b-ipo"), 9.5)
    with pytest.raises(UserError, match=r"zephyr-7b-dpo\.yaml does not fit this card\. .* Add `--lora_r 16`"):
        refuse(shipped("zephyr-7b-dpo"), 8)


def test_float32_embeddings_are_named(shipped):
    planned = plan(shipped("llama-3.1-8b-ipo", dtype="float32"))
    assert any("1.96 GiB more than in bfloat16" in note for note in planned.notes)


@pytest.mark.parametrize(("alpha", "adapters"), [(0.6, 3), (1.0, 2)])
def test_a_moving_reference_is_a_further_adapter_of_up_to_twice_the_rank(shipped, alpha, adapters):
    def lora(**changes):
        return next(term.bytes for term in plan(shipped("llama-3.1-8b-ipo", **changes)).terms if "LoRA" in term.name)

    assert lora(sync_ref_model=True, ref_model_mixup_alpha=alpha) == adapters * lora()


def test_pairs_need_twice_the_row(shipped):
    assert plan(shipped("llama-3.1-8b-ipo")).longest == 2 * plan(shipped("qwen3-8b-kto")).longest


def test_a_choice_of_a_run_is_planned_as_it_is(shipped):
    planned = plan(shipped("llama-3.1-8b-ipo"), choice=(1536, 5))
    assert (planned.row_tokens, planned.checkpointed_layers) == (1536, 5)


def test_epochs_need_a_number_of_examples(shipped):
    assert all(time.epoch is None for time in plan(shipped("llama-3.1-8b-ipo")).times)
    time = plan(shipped("llama-3.1-8b-ipo"), examples=321).times[0]
    assert time.epoch == pytest.approx(11 * time.step)  # 32 a step


@pytest.mark.parametrize(("name", "is_included"), [("llama-3.1-8b-ipo", True), ("gemma-2-9b-simpo", False)])
def test_a_reference_pass_is_noted_where_there_is_one(shipped, name, is_included):
    noted = [note for note in plan(shipped(name)).notes if "reference pass" in note]
    assert noted == ["Times include a reference pass, as in a first epoch."] * is_included


def test_the_embedded_data_is_counted(shipped):
    assert plan(shipped("demo")).examples == 1000
    assert plan(shipped("demo", loss="kto")).examples == 2000


def other_trainer(folder: Path, **settings: object) -> str:
    common = {
        "model_name_or_path": "Qwen/Qwen3-4B",
        "dataset_name": "trl-lib/tldr-preference",
        "load_in_4bit": True,
        "use_bnb_nested_quant": True,
        "use_peft": True,
        "lora_r": 16,
        "lora_target_modules": "all-linear",
        "optim": "paged_adamw_8bit",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing": True,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(common | settings), encoding="utf-8")
    return str(path)


def terms(path: str) -> dict[str, float]:
    return {term.name: term.bytes for term in plan(path).terms}


def test_ppo_has_a_critic_and_a_cache(tmp_path):
    settings = {"trainer": "ppo", "reward_funcs": ["sentiment"], "max_completion_length": 512}
    found = terms(other_trainer(tmp_path, **settings))
    adapter = 33_030_144  # rank 16 on all linear layers of Qwen3-4B
    assert found["LoRA weights"] == found["gradients"] == 2 * 4 * adapter
    # 16 completions of 512 + 512 tokens; keys and values of 36 layers, 8 heads of 128, 2 bytes
    final = 16 * 1024 * 2 * 36 * 8 * 128 * 2
    assert found["KV cache"] == 1.5 * final  # it grows by concatenation
    assert terms(other_trainer(tmp_path, cache_implementation="static", **settings)).get("KV cache", final) == final


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        ({"trainer": "ppo"}, 1),
        ({"trainer": "ppo", "num_iterations": 2}, 2),
        ({"trainer": "ppo", "advantage": "rloo", "num_generations": 4}, 4),
        ({"trainer": "grpo", "num_iterations": 2}, 16),
        ({"trainer": "rloo"}, 2),
        ({"trainer": "online", "loss": "dpo", "num_generations": 4}, 4),
    ],
    ids=str,
)
def test_an_epoch_has_all_completions_of_every_prompt(tmp_path, settings, uses):
    """1,600 prompts in steps of 16 completions: 100 steps for each completion of a prompt and each epoch over a rollout."""
    rest = {"reward_funcs": ["sentiment"], "max_completion_length": 512, "max_train_samples": 1600}
    rest |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    (time, *_) = plan(other_trainer(tmp_path, **settings, **rest)).times
    assert time.epoch == pytest.approx(100 * uses * time.step)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"trainer": "ppo"}, Passes(1, 0, headless=1, trained=2)),
        ({"trainer": "ppo", "num_iterations": 4}, Passes(1, 0, headless=0.25, trained=2)),
        ({"trainer": "ppo", "kl_coef": 0.0, "advantage": "remax"}, Passes(0, 0)),
        ({"trainer": "grpo"}, Passes(0, 0)),
        ({"trainer": "grpo", "advantage": "gae", "beta": 0.1}, Passes(1, 0, headless=1, trained=2)),
        ({"trainer": "rloo"}, Passes(1, 0)),
    ],
    ids=str,
)
def test_a_critic_has_passes_of_its_own(tmp_path, settings, passes):
    """Its values once per rollout, and its update in each epoch over it."""
    recipe = other_trainer(tmp_path, reward_funcs=["sentiment"], max_completion_length=512, **settings)
    assert sampled(load(recipe)).passes == passes


def test_a_reward_model_has_no_language_head(tmp_path):
    settings = {"trainer": "reward", "model_name_or_path": "Qwen/Qwen3-8B", "max_length": 1024}
    planned = plan(other_trainer(tmp_path, **settings))
    assert "weights: LM head (16-bit)" not in {term.name for term in planned.terms}
    assert planned.row_tokens == 2 * 2 * 1024 and planned.checkpointed_layers == 36


def write(folder: Path, name: str, content: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(folder)


def test_a_folder_is_planned_from_its_config(shipped, tmp_path):
    folder = write(tmp_path / "model", "config.json", shallow(SHAPES["Qwen3-8B"], 3))
    planned = plan(shipped("qwen3-8b-kto", model_name_or_path=folder))
    assert planned.layers == 3


def test_an_adapter_is_planned_on_its_base(shipped, tmp_path):
    adapter = {"peft_type": "LORA", "r": 64, "target_modules": ["q_proj", "v_proj"]}
    adapter["base_model_name_or_path"] = "Qwen/Qwen3-8B"
    folder = write(tmp_path / "adapter", "adapter_config.json", adapter)
    continued = plan(shipped("qwen3-8b-kto", model_name_or_path=folder))
    assert continued.trained == 36 * 64 * (4096 + 4096 + 4096 + 1024)
    lora = next(term.bytes for term in continued.terms if term.name == "LoRA weights")
    assert lora == 2 * 4 * continued.trained  # the reference is a frozen copy


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", "[1, 2]", "not a JSON object"),
        ("config.json", {"model_type": "💥"}, "does not know"),
        ("other.json", "{}", "holds no config.json"),
        ("adapter_config.json", {"r": 8}, "does not name its base model"),
        ("adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen3-8B"}, "has no `peft_type`"),
        (
            "adapter_config.json",
            {"base_model_name_or_path": "Qwen/Qwen3-8B", "peft_type": "IA3"},
            "counts LoRA adapters only, and `model_name_or_path` is an adapter of type IA3.",
        ),
    ],
)
def test_broken_folders_are_one_sentence(shipped, tmp_path, name, content, said):
    folder = write(tmp_path / "model", name, content)
    with pytest.raises(UserError, match=said):
        plan(shipped("qwen3-8b-kto", model_name_or_path=folder))


def test_an_unknown_model_offline(shipped, monkeypatch):
    assert constants.HF_HUB_OFFLINE  # set for all tests
    with pytest.raises(UserError, match=r"could not be read from the Hub .* Offline, these can be planned"):
        plan(shipped("qwen3-8b-kto", model_name_or_path="nobody/nothing"))


def test_every_recipe_model_is_known_offline(shipped):
    for path in RECIPES.glob("*.yaml"):
        name = shipped(path.stem).get("model_name_or_path")
        assert name == "embedded" or name in MODELS or Path(name, "config.json").is_file()
