"""Refreshing the reference adapter, against dense matrices in float64."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_ext.reference.frozen_copy import policy_is_reference
from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.moving import add_reference, cut, refresh, unmixable

ALPHA = 0.6
TARGETS = ["q_proj", "k_proj", "gate_proj"]


def model(tiny_model, alpha=ALPHA, targets=TARGETS, **changes):
    config = {"r": 4, "lora_alpha": 12, "target_modules": targets, "task_type": "CAUSAL_LM", **changes}
    built = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**config))
    add_reference(built, alpha)
    return built


def train(model, seed, *, b_only=False):
    """Set the policy's adapter to something else."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if ".default." in name and not (b_only and "lora_A" in name):
            parameter.data = torch.randn(parameter.shape, generator=generator) / 8


def change(model, adapter) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight: the matrix PEFT would merge, in float64."""
    return {
        name: module.scaling[adapter]
        * module.lora_B[adapter].weight.detach().double()
        @ module.lora_A[adapter].weight.detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def distance(a, b) -> float:
    """‖a − b‖ / ‖b‖ over all layers together."""
    return (sum((a[n] - b[n]).square().sum() for n in b) / sum(m.square().sum() for m in b.values())).sqrt().item()


def mixture(model) -> dict[str, torch.Tensor]:
    policy, reference = change(model, "default"), change(model, FROZEN_COPY)
    return {name: ALPHA * policy[name] + (1 - ALPHA) * reference[name] for name in policy}


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"rank_pattern": {"k_proj": 7}, "alpha_pattern": {"gate_proj": 5}}, {"r": 40}],
    ids=["lora", "rslora", "ranks by layer", "rank beyond the layer's"],
)
def test_two_refreshes_are_exact(changes, tiny_model):
    trained = model(tiny_model, **changes)
    expected = {name: torch.zeros_like(matrix) for name, matrix in change(trained, "default").items()}
    for seed in (1, 2):
        train(trained, seed)
        policy = change(trained, "default")
        expected = {name: ALPHA * policy[name] + (1 - ALPHA) * expected[name] for name in policy}
        assert refresh(trained, ALPHA) < 1e-5
        assert distance(change(trained, FROZEN_COPY), expected) < 1e-5


def test_refreshes_stay_exact_while_the_rank_fits(tiny_model):
    """Ten policies with the same A: every mixture has rank r."""
    trained = model(tiny_model)
    expected = mixture(trained)
    for seed in range(10):
        train(trained, seed, b_only=True)
        policy = change(trained, "default")
        expected = {name: ALPHA * policy[name] + (1 - ALPHA) * expected[name] for name in policy}
        assert refresh(trained, ALPHA) < 1e-5
    assert distance(change(trained, FROZEN_COPY), expected) < 1e-5


def test_beyond_its_rank_the_reference_is_the_nearest_one_and_says_what_it_lost(tiny_model):
    trained = model(tiny_model)
    for seed in (1, 2):
        train(trained, seed)
        refresh(trained, ALPHA)
    train(trained, 3)
    exact = mixture(trained)
    nearest = {}
    for name, matrix in exact.items():
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        nearest[name] = u[:, :8] * s[:8] @ vh[:8]
    dropped = refresh(trained, ALPHA)
    assert distance(change(trained, FROZEN_COPY), nearest) < 1e-5
    assert dropped == pytest.approx(distance(nearest, exact), rel=1e-4) and dropped > 0.01


def test_at_one_the_reference_is_a_copy_of_the_same_rank(tiny_model):
    trained = model(tiny_model, alpha=1)
    train(trained, 1)
    assert refresh(trained, 1) == 0
    for name, parameter in trained.named_parameters():
        if ".default." in name:
            assert torch.equal(trained.get_parameter(name.replace(".default.", ".ref.")), parameter)
    assert policy_is_reference(trained)


@pytest.mark.parametrize(("rows", "columns", "stacked", "rank"), [(9, 7, 5, 3), (9, 7, 12, 8), (4, 30, 6, 5)])
def test_a_cut_is_the_truncated_svd_of_the_product(rows, columns, stacked, rank):
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(rows, stacked, generator=generator, dtype=torch.float64)
    a = torch.randn(stacked, columns, generator=generator, dtype=torch.float64)
    new_b, new_a, singular_values = cut(b, a, rank)
    assert (new_b.shape, new_a.shape) == ((rows, rank), (rank, columns))
    u, s, vh = torch.linalg.svd(b @ a, full_matrices=False)
    torch.testing.assert_close(new_b @ new_a, u[:, :rank] * s[:rank] @ vh[:rank])
    torch.testing.assert_close(singular_values[: len(s)], s[: len(singular_values)])
    torch.testing.assert_close(new_b.norm(), new_a.norm())


def test_the_reference_starts_as_the_adapter_and_stays_frozen(tiny_model):
    trained = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )
    train(trained, 1)
    trainable = [name for name, p in trained.named_parameters() if p.requires_grad]
    add_reference(trained, ALPHA)
    assert policy_is_reference(trained)
    assert distance(change(trained, FROZEN_COPY), change(trained, "default")) == 0
    refresh(trained, ALPHA)
    assert [name for name, p in trained.named_parameters() if p.requires_grad] == trainable
    assert trained.active_adapters == ["default"]
    with torch.no_grad():
        trained.base_model.model.model.layers[0].self_attn.q_proj.lora_B["ref"].weight[0, -1] = 1e-3
    assert not policy_is_reference(trained)


def test_layers_that_are_no_matrix_product_are_refused(tiny_model):
    with pytest.raises(
        ValueError, match=r"supports adapters of linear layers only, and .*embed_tokens is a Embedding"
    ):
        model(tiny_model, targets=["q_proj", "embed_tokens"])


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (LoraConfig(use_rslora=True), None),
        (LoraConfig(use_dora=True), "`use_dora`"),
        (LoraConfig(modules_to_save=["lm_head"]), "`modules_to_save`"),
        (LoraConfig(lora_bias=True), "`lora_bias`"),
        (IA3Config(), "a IA3 adapter"),
    ],
)
def test_what_cannot_be_mixed_is_named(config, what):
    assert unmixable(config) == what
