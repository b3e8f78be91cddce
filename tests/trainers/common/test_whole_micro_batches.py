"""`gradient_checkpointing: auto` of supervised fine-tuning and reward models: the same gradients with the layers counted by hand."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from tests.trainers.helpers import (
    Recorder,
    arguments,
    fewest_layers,
    intercept,
    lora,
    randomise_lora_b,
    same_gradients,
)
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import activation_memory, recompute_options
from trl_ext.trainers.sft_and_reward import RewardModelConfig, RewardModelTrainer, SupervisedConfig, SupervisedTrainer

SFT = (SupervisedTrainer, SupervisedConfig)
KINDS = {
    "sft": (*SFT, {}),
    "packed": (*SFT, {"packing": True, "per_device_train_batch_size": 2}),
    # The loss is computed from the logits; a second forward pass, without gradient, gives the metrics.
    "two passes": (*SFT, {}),
    "reward": (RewardModelTrainer, RewardModelConfig, {}),
    "one pair": (RewardModelTrainer, RewardModelConfig, {"per_device_train_batch_size": 1}),
}
LAYERS = 2  # of the tiny model
BASE = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2, "learning_rate": 0.1}


def loss_of_logits(outputs, labels, num_items_in_batch):
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


def build(kind, model, folder, *, adapter=True, **changes):
    cls, config, settings = KINDS[kind]
    rows, scores = pairs(24), cls is RewardModelTrainer
    if not scores:
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    options = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if scores else {}
    torch.manual_seed(5)  # of a new head
    trainer = cls(
        model=model,
        args=config(**arguments(folder, **{**BASE, "gradient_checkpointing": "auto", **settings, **changes})),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora(lora_dropout=0.1, **options) if adapter else None,
        **({"compute_loss_func": loss_of_logits} if kind == "two passes" else {}),
    )
    randomise_lora_b(trainer.model)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    return trainer


def run(trainer, monkeypatch, *, free=None):
    """Gradients and logs of two steps, and of each micro-batch its tokens and which layers are checkpointed."""
    if free is not None:
        monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: free)
    layers, passes = activation_memory.layers_of(trainer.model), []

    def watch(original, phase, batch, forward):
        original(phase, batch, forward)
        passes.append((batch["input_ids"].numel(), [layer.gradient_checkpointing for layer in layers]))

    if trainer.memory is not None:
        intercept(trainer.memory, "checkpoint_for", watch)
    trainer.train()
    return trainer.recorder.gradients, trainer.recorder.logs, passes


def timeless(logs):
    return [{name: value for name, value in log.items() if "time" not in name} for log in logs]


@pytest.mark.parametrize("kind", KINDS)
def test_each_micro_batch_recomputes_only_what_it_needs(kind, tiny_model, tmp_path, monkeypatch):
    """The metrics, counts and random numbers of a run do not show that its memory was measured, either."""
    expected, logs, _ = run(build(kind, tiny_model, tmp_path, gradient_checkpointing=True), monkeypatch)
    plenty = build(kind, tiny_model, tmp_path)
    gradients, found, passes = run(plenty, monkeypatch, free=2**40)
    assert same_gradients(gradients, expected) and timeless(found) == timeless(logs)
    assert {tuple(flags) for _, flags in passes} == {(False, False)}

    footprint = plenty.memory.by_phase["in training"].footprint
    assert footprint.layers == LAYERS
    longest = max(size for size, _ in passes)
    held = sum(
        p.numel() * 4 for p in plenty.model.parameters() if p.requires_grad
    )  # gradients of earlier micro-batches
    middle = footprint.peak(longest, 1) * (1 + 1e-9)
    assert middle < footprint.peak(longest, 0)
    some = build(kind, tiny_model, tmp_path)
    gradients, found, passes = run(some, monkeypatch, free=middle + held)
    assert same_gradients(gradients, expected) and timeless(found) == timeless(logs)
    for size, flags in passes:
        count = fewest_layers(footprint, size, middle)
        assert flags == [number < count for number in range(LAYERS)]
    assert [True, False] in [flags for _, flags in passes]
    assert some.longest_row == (longest, 1)


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_no_memory_recomputes_everything(kind, tiny_model, tmp_path, monkeypatch):
    _, _, passes = run(build(kind, tiny_model, tmp_path, max_steps=1), monkeypatch, free=0)
    assert {tuple(flags) for _, flags in passes} == {(True, True)}


@pytest.mark.parametrize("kwargs", [{"use_reentrant": True}, {"preserve_rng_state": True}])
def test_settings_of_the_recomputation_are_passed_on(kwargs, tiny_model, tmp_path, monkeypatch):
    expected, _, _ = run(build("sft", tiny_model, tmp_path, gradient_checkpointing=False), monkeypatch)
    trainer = build("sft", tiny_model, tmp_path, gradient_checkpointing_kwargs=kwargs)
    gradients, _, passes = run(trainer, monkeypatch, free=0)
    assert same_gradients(gradients, expected) and passes[0][1] == [True, True]
    function = activation_memory.layers_of(trainer.model)[0]._gradient_checkpointing_func
    assert function.keywords == {"use_reentrant": False, **kwargs}


@pytest.mark.parametrize("is_on", [True, False])
def test_a_choice_of_the_user_is_kept(is_on, tiny_model, tmp_path, monkeypatch):
    trainer = build("sft", tiny_model, tmp_path, gradient_checkpointing=is_on, max_steps=1)
    trainer.train()
    assert trainer.memory is None
    assert [layer.gradient_checkpointing for layer in activation_memory.layers_of(trainer.model)] == [is_on, is_on]
    assert trainer.longest_row == (trainer._longest, LAYERS * is_on) and trainer._longest > 0


def fails_in_backward(trainer, times):
    """Memory runs out in the backward pass of the first layer, when the second one has its gradients, from the second time on."""
    parameter = next(p for n, p in trainer.model.named_parameters() if "layers.0." in n and "lora_A" in n)
    passes = []

    def hook(gradient):
        passes.append(trainer.memory.layers.count)
        if 1 < len(passes) <= 1 + times:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return gradient

    parameter.register_hook(hook)
    return passes


@pytest.mark.parametrize("kind", ["sft", "reward"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_micro_batch_that_runs_out_of_memory_is_run_again(times, kind, tiny_model, tmp_path, monkeypatch, capsys):
    """Without dropout, of which a repetition draws another mask."""

    def made(**changes):
        trainer = build(kind, tiny_model, tmp_path, **changes)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return trainer

    expected, logs, _ = run(made(gradient_checkpointing=True), monkeypatch)
    trainer = made()
    passes = fails_in_backward(trainer, times)
    gradients, found, _ = run(trainer, monkeypatch, free=2**40)
    assert same_gradients(gradients, expected) and timeless(found) == timeless(logs)
    assert passes == {1: [0] * 5, 2: [0, 0, 0, 2, 2, 2]}[times]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        said.count("out of memory in training: cached memory was freed, and the micro-batch is run again as it was")
        == 1
    )
    again = "out of memory in training: the micro-batch is run again, from now on with gradient checkpointing in all layers"
    assert said.count(again) == times - 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {},
            "Out of memory in training: lower `per_device_train_batch_size`, `max_length` or `lora_r`, or free memory",
        ),
        (
            {"per_device_train_batch_size": 1},
            "Out of memory in training: lower `max_length` or `lora_r`, or free memory",
        ),
        (
            {"gradient_checkpointing": False},
            "Out of memory in training: set `gradient_checkpointing: true`, lower `per_dev",
        ),
    ],
)
def test_what_never_fits_ends_in_a_sentence(given, sentence, tiny_model, tmp_path):
    trainer = build("sft", tiny_model, tmp_path, **given)

    def out_of_memory(original, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    intercept(trainer, "compute_loss", out_of_memory)
    with pytest.raises(UserError) as raised:
        trainer.train()
    assert str(raised.value).startswith(sentence)


def test_without_an_adapter_gradients_are_not_kept_twice(tiny_model, tmp_path, monkeypatch):
    """Only the first micro-batch of a step, which has no gradients beside it, is run again."""
    trainer = build("sft", tiny_model, tmp_path, adapter=False)
    steps = []

    def fail(original, *args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) in (3, 5):  # after the two passes that measure memory: the first and the second micro-batch
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(*args, **kwargs)

    intercept(trainer, "compute_loss", fail)
    with pytest.raises(UserError, match="Out of memory in training: lower"):
        run(trainer, monkeypatch, free=2**40)
    assert len(steps) == 5 and not trainer.memory.keeps_gradients


def test_a_resumed_run_is_the_uninterrupted_one(tiny_model, tmp_path, monkeypatch):
    """With dropout, and with another number of checkpointed layers after the interruption."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    whole = build("sft", tiny_model, tmp_path / "whole", **settings)
    _, logs, _ = run(whole, monkeypatch, free=2**40)
    resumed = build("sft", tiny_model, tmp_path / "resumed", **settings)
    monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: 0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.memory.layers.count == LAYERS and whole.memory.layers.count == 0
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in resumed.model.named_parameters())
    assert [log["loss"] for log in resumed.recorder.logs] == [log["loss"] for log in logs[2:]]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"world_size": 2}, "several processes train"),
        ({"activation_offloading": True}, "`activation_offloading` moves"),
        ({"torch_compile": True}, "`torch_compile` would compile"),
        ({}, None),
    ],
)
def test_where_layers_cannot_be_chosen_all_are_checkpointed(changed, reason):
    plain = {"world_size": 1, "activation_offloading": False, "torch_compile": False}
    given = SimpleNamespace(gradient_checkpointing="auto", activation_checkpointing=None, **plain | changed)
    found = recompute_options.settle_before(given)
    if reason is None:
        assert found is None and given.gradient_checkpointing == "auto"
    else:
        assert found.startswith(reason) and given.gradient_checkpointing is given.activation_checkpointing is True
    off = SimpleNamespace(gradient_checkpointing=False, **plain | changed)
    assert recompute_options.settle_before(off) is None and off.gradient_checkpointing is False


def test_a_model_without_adapter_computes_trls_loss(tiny_model, tmp_path, monkeypatch):
    """Full fine-tuning, with a model that is given."""
    expected, _, _ = run(build("sft", tiny_model, tmp_path, adapter=False, gradient_checkpointing=True), monkeypatch)
    gradients, _, passes = run(build("sft", tiny_model, tmp_path, adapter=False), monkeypatch, free=2**40)
    assert same_gradients(gradients, expected) and passes[0][1] == [False, False]
    assert len(expected[0]) == len(list(AutoModelForCausalLM.from_pretrained(tiny_model).parameters()))
