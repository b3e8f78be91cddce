"""Measured activation memory against PyTorch's own allocator log; what `auto` then does with it."""

import copy
import gc
import itertools
import re

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import peak_bytes_on_cpu
from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, relative_difference
from trl_ext.batching import attention
from trl_ext.batching.packed import Tree, pack
from trl_ext.fused import lora as fused_lora
from trl_ext.fused import norm, swiglu
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.common.checkpointed_layers import CheckpointedLayers


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fused"])
def deep(request):
    """Six layers with LoRA on all of them, and a backward pass over a packed row of n prompts."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    base = LlamaForCausalLM(config)
    attention.switch(base)
    model = get_peft_model(base, lora(target_modules="all-linear")).train()
    if request.param:
        for room in (norm, swiglu, fused_lora):
            room.fuse(model)

    def forward(count: int) -> torch.Tensor:
        row = pack([Tree([5] * 40, [[6] * 30, [7] * 25])] * count)
        with attention.packed(row.layout):
            hidden = base.model(
                input_ids=row.input_ids,
                position_ids=row.position_ids,
                attention_mask=torch.ones_like(row.input_ids),
                use_cache=False,
            ).last_hidden_state
        return hidden.square().sum()

    return model, base, forward


TOKENS = 39 + 31 + 26  # of the row above, per prompt


def trial(forward, prompts: int = 2):
    return lambda times: (lambda: forward(prompts * times), prompts * times * TOKENS)


@pytest.mark.parametrize("checkpointed", [0, 2, 5, 6])
def test_the_footprint_foretells_the_allocations_of_a_longer_row(checkpointed, deep):
    _, base, forward = deep
    base.gradient_checkpointing_disable()
    measured, layers = activation_memory.footprint(base, trial(forward))
    assert measured.layers == 6 and layers == list(base.model.layers)
    CheckpointedLayers(base, layers).first(checkpointed)
    forward(1).backward()  # gradients are there from now on
    found = peak_bytes_on_cpu(lambda: forward(9).backward())
    assert 0.9 < measured.peak(9 * TOKENS, checkpointed) / found < 1.15


def test_the_graphs_that_are_measured_are_freed(deep):
    """PyTorch keeps a graph for ever whose node holds its own output: with all activations, and with the model's weights."""

    def in_graphs() -> int:
        gc.collect()
        return sum(type(each) is torch.Tensor and each.grad_fn is not None for each in gc.get_objects())

    _, base, forward = deep
    before = in_graphs()
    activation_memory.footprint(base, trial(forward))
    assert in_graphs() == before


def test_a_measurement_keeps_nothing_that_it_counts(deep):
    _, base, forward = deep
    base.gradient_checkpointing_disable()
    counted = activation_memory.kept(base, lambda: forward(9))[0]
    found = peak_bytes_on_cpu(lambda: activation_memory.kept(base, lambda: forward(9)))
    assert found < 0.4 * (counted.inside + counted.outside)  # a layer's and what attention needs, of six layers


def test_a_pass_without_gradient_takes_no_more_than_foretold(deep):
    _, base, forward = deep
    base.gradient_checkpointing_disable()
    measured, _ = activation_memory.footprint(base, trial(forward))
    with torch.no_grad():
        found = peak_bytes_on_cpu(lambda: forward(9))
    assert 0.5 < found / measured.without_gradient(9 * TOKENS) <= 1


def test_copies_that_autocast_makes_of_weights_are_no_cost_per_token(deep):
    _, base, forward = deep
    base.gradient_checkpointing_disable()

    def cast(count):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(count)

    short, long = (activation_memory.footprint(base, trial(cast, prompts))[0] for prompts in (1, 8))
    assert short.stored == pytest.approx(long.stored, rel=0.02)
    weights = sum(p.numel() for p in base.model.layers.parameters() if p.ndim == 2)
    assert short.constant == pytest.approx(2 * weights, rel=0.1)


@pytest.mark.parametrize("checkpointed", [0, 1, 4, 6])
def test_recomputing_some_layers_changes_no_gradient(checkpointed, deep):
    model, base, forward = deep
    _, layers = activation_memory.footprint(base, trial(forward))

    def gradients():
        model.zero_grad()
        forward(2).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    base.gradient_checkpointing_disable()
    expected = gradients()
    CheckpointedLayers(base, layers).first(checkpointed)
    found = gradients()
    assert [layer.gradient_checkpointing for layer in layers] == [i < checkpointed for i in range(6)]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpointing_is_turned_on_once_however_often_the_number_of_layers_changes(deep, monkeypatch):
    _, base, _ = deep
    base.gradient_checkpointing_disable()
    embeddings, calls = base.get_input_embeddings(), []
    enable = base._set_gradient_checkpointing
    monkeypatch.setattr(base, "_set_gradient_checkpointing", lambda **given: calls.append(given) or enable(**given))
    hooks = len(embeddings._forward_hooks)
    chosen = CheckpointedLayers(base, list(base.model.layers), preserve_rng_state=False)
    chosen.first(0)
    assert not calls and len(embeddings._forward_hooks) == hooks
    newer, older = "is_activation_checkpointing", "is_gradient_checkpointing"  # since transformers 5.23, and before
    name = newer if hasattr(base, newer) else older
    for count in (2, 5, 5, 0, 6, 3, 1):
        chosen.first(count)
        assert [layer.gradient_checkpointing for layer in base.model.layers] == [i < count for i in range(6)]
        assert getattr(base, name) == (count > 0) and chosen.count == count
    assert len(calls) == 1
    assert calls[0]["gradient_checkpointing_func"].keywords == {"use_reentrant": False, "preserve_rng_state": False}
    assert len(embeddings._forward_hooks) == hooks + 1


def one_step(tiny_model, tmp_path, free, monkeypatch, prepare=lambda trainer: None, **settings):
    monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: free)
    values = arguments(tmp_path, max_steps=1, **{"gradient_checkpointing": "auto", **settings})
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**values), tiny_model)
    prepare(trainer)
    trainer.train()
    flags = [layer.gradient_checkpointing for layer in trainer.model.get_base_model().model.layers]
    return trainer, flags, trainer.recorder.gradients[0]


@pytest.mark.parametrize("packing", [True, False])
def test_auto_recomputes_in_each_row_only_what_it_needs(packing, tiny_model, tmp_path, monkeypatch, capsys):
    rows = []

    def watch(trainer):
        def checkpoint_for(original, tokens):
            original(tokens)
            rows.append((tokens, trainer.memory.checkpointed_layers))

        intercept(trainer.memory, "checkpoint_for", checkpoint_for)

    settings = {"packing": packing, "row_tokens": 110, "prepare": watch}
    plenty, flags, gradients = one_step(tiny_model, tmp_path, 2**30, monkeypatch, **settings)
    assert flags == [False, False] and {count for _, count in rows} == {0}
    assert "gradient checkpointing off" in capsys.readouterr().out
    footprint, (short, long) = plenty.memory.activations.footprint, (min(rows)[0], max(rows)[0])
    assert short < long
    rows.clear()
    # Between what the longest row needs with one layer recomputed, and what the shortest needs with none.
    free = max(footprint.peak(short, 0), footprint.peak(long, 1))
    _, flags, same = one_step(tiny_model, tmp_path, free, monkeypatch, **settings)
    assert dict(rows)[short] == 0 and dict(rows)[long] == (0 if footprint.peak(long, 0) <= free else 1)
    assert relative_difference(same, gradients) < 1e-5


def test_the_last_layer_is_kept_as_long_as_possible(tiny_model, tmp_path, monkeypatch):
    """Its activations are needed at once."""
    in_order = {"train_sampling_strategy": "sequential"}
    plenty, _, gradients = one_step(tiny_model, tmp_path, 2**30, monkeypatch, **in_order)
    step = plenty.rows.size(list(plenty.train_dataset)[:8])
    free = plenty.memory.activations.footprint.peak(step, 1)
    _, flags, same = one_step(tiny_model, tmp_path, free, monkeypatch, row_tokens=4096, **in_order)
    assert flags == [True, False]
    assert relative_difference(same, gradients) < 1e-5


def test_what_the_user_says_is_kept(tiny_model, tmp_path, monkeypatch, capsys):
    for given in (True, False):
        trainer, flags, _ = one_step(tiny_model, tmp_path, 2**30, monkeypatch, gradient_checkpointing=given)
        assert flags == [given, given] and trainer.args.gradient_checkpointing is given
    if hasattr(trainer.args, "activation_checkpointing"):  # since transformers 5.23
        _, flags, _ = one_step(tiny_model, tmp_path, 2**30, monkeypatch, activation_checkpointing=True)
        assert flags == [True, True]
    trainer, _, _ = one_step(tiny_model, tmp_path, 2**30, monkeypatch, row_tokens=100)
    assert trainer.row_tokens == 100


def test_a_single_example_that_does_not_fit_is_recomputed_before_giving_up(tiny_model, tmp_path, monkeypatch, capsys):
    def shorten(trainer):
        """Have it run out of memory until every layer is recomputed."""

        def score(original, model, batch):
            if trainer.memory.checkpointed_layers != 2:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return original(model, batch)

        intercept(trainer.row_objective, "score", score)

    _, _, expected = one_step(tiny_model, tmp_path, 2**30, monkeypatch)
    _, flags, found = one_step(tiny_model, tmp_path, 2**30, monkeypatch, shorten, row_tokens=30)
    assert flags == [True, True]
    assert relative_difference(found, expected) < 1e-5
    assert (
        "out of memory: the step is repeated, from now on with gradient checkpointing in all layers"
        in capsys.readouterr().out
    )


def test_a_trial_that_does_not_fit_recomputes_everything(tiny_model, tmp_path, monkeypatch, capsys):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    monkeypatch.setattr(activation_memory, "footprint", too_much)
    trainer, flags, _ = one_step(tiny_model, tmp_path, 2**30, monkeypatch)
    assert flags == [True, True]
    assert trainer.row_tokens >= max(trainer.rows.size([example]) for example in trainer.train_dataset)
    assert "does not fit without gradient checkpointing" in capsys.readouterr().out


def test_the_measurement_leaves_no_trace(tiny_model, tmp_path, monkeypatch):
    """Same weights after a run with it as after one without."""
    results = []
    for settings in ({"gradient_checkpointing": "auto"}, {"gradient_checkpointing": False, "row_tokens": 4096}):
        trainer, _, _ = one_step(tiny_model, tmp_path, 2**30, monkeypatch, disable_dropout=False, **settings)
        results.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_free_memory_leaves_room_for_what_training_still_allocates(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(activation_memory, "free", lambda device: 10**9)
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    model = trainer.model.get_base_model()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = 4096 * model.config.vocab_size * 4

    def free(optim: str) -> float:
        args = PairedPreferenceConfig(**arguments(tmp_path, optim=optim))
        return activation_memory.free_for_activations(model, None, args.optim, torch.device("cpu"))

    found = free("adamw_torch")
    assert found == pytest.approx(0.9e9 - 4 * count - 8 * count - head)
    eight_bit = free("paged_adamw_8bit")
    assert eight_bit - found == pytest.approx((8 - 2.03) * count)


@pytest.mark.parametrize("given", ["fast", "Auto"])
def test_another_word_is_refused(given, tmp_path):
    with pytest.raises(ValueError, match=re.escape("give true, false or 'auto'")):
        PairedPreferenceConfig(**arguments(tmp_path, gradient_checkpointing=given))


def test_auto_survives_a_copy_of_the_configuration(tmp_path):
    import dataclasses

    config = PairedPreferenceConfig(**arguments(tmp_path, gradient_checkpointing="auto"))
    assert dataclasses.replace(config, learning_rate=0.5).gradient_checkpointing == "auto"
    assert copy.deepcopy(config).gradient_checkpointing == "auto"


def test_a_model_that_came_with_checkpointing_is_settled_too(tiny_model, tmp_path, monkeypatch):
    base = LlamaForCausalLM.from_pretrained(tiny_model)
    base.gradient_checkpointing_enable()
    monkeypatch.setattr(activation_memory, "free_for_activations", lambda *_: 2**30)
    config = PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, gradient_checkpointing="auto"))
    trainer = PairedPreferenceTrainer(
        model=base,
        args=config,
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
    )
    trainer.train()
    assert not any(layer.gradient_checkpointing for layer in trainer.model.get_base_model().model.layers)


@pytest.mark.parametrize("kwargs", [{"every_n_layers": 2}, {"offload": True}])
def test_another_choice_of_layers_beside_auto_is_refused(kwargs, tmp_path):
    with pytest.raises(ValueError, match=f"sets {next(iter(kwargs))}"):
        PairedPreferenceConfig(
            **arguments(tmp_path, gradient_checkpointing="auto", gradient_checkpointing_kwargs=kwargs)
        )


@pytest.mark.parametrize(("given", "expected"), [("auto", 90), (60, 60), (300, 90)])
def test_a_resume_never_gets_longer_rows_than_asked_for(given, expected, tiny_model, tmp_path):
    settings = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    first = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    first.memory.shorten_rows(90)  # as after running out of memory
    first.train()
    resumed = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings, row_tokens=given), tiny_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.row_tokens == expected


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory. Compile with ..."),
    ],
)
def test_allocations_outside_pytorch_are_retried_too(error, tiny_model, tmp_path, monkeypatch, capsys):
    rows = itertools.count(1)

    def score(original, model, batch):
        if next(rows) in (2, 4):
            raise error
        return original(model, batch)

    config = PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, row_tokens=90))
    trainer = build(PairedPreferenceTrainer, config, tiny_model)
    intercept(trainer.row_objective, "score", score)
    trainer.train()
    assert (
        trainer.state.global_step == 1
        and "out of memory: the step is repeated, from now on with row_tokens" in capsys.readouterr().out
    )
