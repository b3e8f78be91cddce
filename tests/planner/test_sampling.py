"""What samples completions takes memory too: a merged copy of the base, or vLLM."""

import pytest

from tests.planner.test_plan import other_trainer
from trl_ext.planner import plan, refuse
from trl_ext.planner.memory import GIB
from trl_ext.support.errors import UserError

PPO = {"trainer": "ppo", "reward_funcs": ["sentiment"], "max_completion_length": 512}
LINEAR = 36 * (2560 * (4096 + 2 * 1024) + 4096 * 2560 + 3 * 2560 * 9728)
"""Weights of Qwen3-4B in linear layers, counted from its card: 36 layers, 32 query and 8 key-value heads of 128."""
ALL = LINEAR + 151_936 * 2560 + 36 * (2 * 2560 + 2 * 128) + 2560  # tied embeddings, norms
COPY = "merged copy for sampling (16-bit)"


def terms(planned):
    return {term.name: term.bytes for term in planned.terms}


def test_auto_is_merged_where_the_copy_fits_and_the_plan_says_so(tmp_path):
    path = other_trainer(tmp_path, **PPO)
    small, large = plan(path, vram=12), plan(path, vram=24)
    assert small.fits and COPY not in terms(small) and terms(large)[COPY] == 2 * LINEAR
    assert "`sampling_weights: auto` will choose adapter" in " ".join(small.notes)
    assert f"will choose merged: a merged copy of the base in 16 bits takes {2 * LINEAR / GIB:.1f} GiB" in " ".join(
        large.notes
    )


def test_merged_is_counted_whether_it_fits_or_not_and_advice_names_it_first(tmp_path):
    path = other_trainer(tmp_path, sampling_weights="merged", **PPO)
    planned = plan(path, vram=12)
    assert not planned.fits and planned.flags == ("--sampling_weights adapter",) and planned.flags_suffice
    with pytest.raises(UserError, match="Add `--sampling_weights adapter`"):
        refuse(planned_recipe(path), 12)
    adapter = plan(other_trainer(tmp_path, sampling_weights="adapter", **PPO), vram=24)
    merged = plan(other_trainer(tmp_path, sampling_weights="merged", **PPO), vram=24)
    assert COPY not in terms(adapter) and terms(merged)[COPY] == 2 * LINEAR
    assert not [note for note in (*adapter.notes, *merged.notes) if "sampling_weights" in note]


def planned_recipe(path):
    from trl_ext.recipe import load

    return load(path)


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"disable_dropout": False}, {"lora_modules_to_save": ["lm_head"]}]
)
def test_what_cannot_be_merged_has_no_copy(tmp_path, settings):
    assert COPY not in terms(plan(other_trainer(tmp_path, **settings, **PPO), vram=80))


def test_vllm_takes_its_share_all_the_time_or_only_while_it_samples(tmp_path):
    vllm = PPO | {"use_vllm": True, "vllm_gpu_memory_utilization": 0.4}
    awake = plan(other_trainer(tmp_path, **vllm), vram=24)
    asleep = plan(other_trainer(tmp_path, vllm_enable_sleep_mode=True, **vllm), vram=24)
    alone = plan(other_trainer(tmp_path, sampling_weights="adapter", **PPO), vram=24)
    share = 0.4 * 24 * GIB
    assert terms(awake)["vLLM"] == share
    assert asleep.moment == "the sampling of completions" and terms(asleep)["vLLM"] == share
    assert all("KV cache" not in terms(planned) and COPY not in terms(planned) for planned in (awake, asleep))
    static = alone.static
    assert awake.static == pytest.approx(static + share) and asleep.static == pytest.approx(static)
    assert "all the time" in " ".join(awake.notes) and "only while completions are sampled" in " ".join(asleep.notes)


def test_vllm_whose_weights_exceed_its_share_is_said_not_to_start(tmp_path):
    vllm = PPO | {"use_vllm": True, "vllm_gpu_memory_utilization": 0.2}
    planned = plan(other_trainer(tmp_path, **vllm), vram=24)
    assert terms(planned)["vLLM"] == 2 * ALL
    assert "vLLM will not start" in " ".join(planned.notes)
    (enough,) = [float(note.split("Set it to ")[1].split()[0]) for note in planned.notes if "will not start" in note]
    assert 2 * ALL < enough * 24 * GIB < 2.4 * ALL


def test_vllm_on_a_server_takes_nothing(tmp_path):
    server = {"use_vllm": True, "vllm_mode": "server"}
    planned = plan(other_trainer(tmp_path, **server, **PPO), vram=24)
    assert not {"vLLM", "KV cache", COPY} & terms(planned).keys()
