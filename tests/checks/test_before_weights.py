"""What a run refuses before weights are loaded, `validate` refuses too: both read the same recipes here."""

import pytest

from tests.recipe.helpers import BASE, PPO, load, write
from trl_ext import recipe
from trl_ext.build.config import training_config
from trl_ext.checks import debug, machine
from trl_ext.recipe import schema
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.support.errors import UserError

RECIPES = {
    "paired": BASE,
    "unpaired": f"{BASE}loss: kto\n",
    "ppo": PPO,
    "reward": f"{BASE}trainer: reward\n",
    "sft": f"{BASE}trainer: sft\n",
}
ODD = {
    "bool": ("true", "false"),
    "int": ("0", "-1"),
    "float": ("-1", "0", "1.5"),
    "str": ("x", "''"),
    "dict": ("{x: 1}",),
}
"""Values that a reader of the configuration may stumble over, by the kind that the annotation allows."""

ELSEWHERE = {"output_dir", "model_name_or_path", "model_revision", "resume_from_checkpoint"}
"""Settings about folders and the Hub."""


def plain(default) -> str:
    """A default as it is written in a recipe."""
    return str(default).lower()


def is_refused(path) -> bool:
    try:
        recipe.load(path, to_train=True)
    except UserError:
        return True
    return False


def settings_of(kind: str) -> dict[str, schema.Field]:
    """Those that no kind before it has in the table above."""
    earlier = list(RECIPES)[: list(RECIPES).index(kind)]
    known = set().union(*(known_keys(name) for name in earlier))
    fields = {key: field for key, field in known_keys(kind).items() if field is not None and key not in ELSEWHERE}
    return {key: field for key, field in fields.items() if key not in known}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_configuration_that_cannot_be_made_is_refused_by_validate(kind, tmp_path):
    """Every setting with every odd value of its kind: either `validate` refuses it, or the configuration can be made."""
    left = []
    for key, field in settings_of(kind).items():
        odd = [value for name in sorted(field.kinds) for value in ODD.get(name, ()) if value != plain(field.default)]
        values = field.choices[:1] if field.choices else odd
        for value in values:
            path = write(tmp_path, f"{key}: {value}\n", RECIPES[kind])
            if is_refused(path):
                continue
            try:
                training_config(recipe.load(path), tmp_path / "run")
            except UserError as error:
                left.append((key, value, str(error)))
    assert left == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bf16: true\n", "there is no GPU here that computes in 16 bits"),
        ("fp16: true\n", "there is no GPU here that computes in 16 bits"),
        ("tf32: true\n", "there is no GPU here of NVIDIA's Ampere generation or newer"),
        ("activation_offloading: true\n", "and this run is on the CPU"),
        ("trainer: sft\nactivation_offloading: true\n", "and this run is on the CPU"),
        ("warmup_steps: -1\n", "`warmup_steps` (line 3) is -1: give 0, a whole number of steps"),
        ("debug: overflow\n", "`debug` (line 3) names 'overflow'"),
        ("pad_to_multiple_of: eight\n", "`pad_to_multiple_of` (line 3) is 'eight'"),
        ("pad_to_multiple_of: 0\n", "`pad_to_multiple_of` (line 3) is 0"),
        ("dataloader_prefetch_factor: 0\n", "`dataloader_prefetch_factor` (line 3) is 0"),
        ("torch_empty_cache_steps: 0\n", "`torch_empty_cache_steps` (line 3) is 0"),
        ("bf16_full_eval: true\nfp16_full_eval: true\n", "are both true: keep one of them"),
    ],
)
def test_what_was_left_to_the_run(text, said, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr(machine, "capability", lambda: None)
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, text), to_train=True)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("found", "text", "count"),
    [
        (True, "bf16: true\nactivation_offloading: true\ntf32: true\n", 0),
        (None, "bf16: true\nactivation_offloading: true\ntf32: true\n", 0),  # an accelerator that only torch knows
        (True, "use_cpu: true\nactivation_offloading: true\n", 1),
        (False, "use_cpu: true\nbf16: true\n", 0),
    ],
)
def test_a_gpu_is_enough(found, text, count, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "has_accelerator", lambda: found)
    monkeypatch.setattr(machine, "capability", lambda: (8, 9) if found else None)
    path = write(tmp_path, text)
    if not count:
        assert recipe.load(path, to_train=True).notes == []
        return
    with pytest.raises(UserError) as caught:
        recipe.load(path, to_train=True)
    assert len(caught.value.problems) == count


def test_other_verbs_read_a_recipe_for_a_gpu_on_any_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    assert load(tmp_path, "bf16: true\ntf32: true\n").get("bf16") is True


def test_the_machine_is_as_torch_says(monkeypatch):
    import torch

    assert machine.has_accelerator() in (torch.accelerator.is_available(), None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,5,0")
    assert machine._visible([(8, 0), (9, 0)]) == [(9, 0)]  # CUDA stops at the first number that no GPU has
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine._visible([(8, 0)]) == []


def test_the_options_of_debug_are_those_of_transformers():
    from transformers.debug_utils import DebugOption

    assert debug.known_options() == tuple(option.value for option in DebugOption)


def test_a_backend_of_processes_is_left_out_where_there_is_one(tmp_path):
    read = load(tmp_path, "ddp_backend: gloo\n")
    assert read.notes == ["`ddp_backend` (line 3) has no effect with one process. `accelerate launch` starts several."]
    assert training_config(read, tmp_path / "run").ddp_backend is None
