"""The arithmetic, against a training step of the real model on fake tensors."""

import pytest

from tests.planner.helpers import SHAPES, shallow
from trl_ext.planner import counting, dry_run, memory
from trl_ext.planner.memory import EAGER, SDPA, Row, Storage
from trl_ext.planner.models import MODELS

LAYERS = 4
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def ratio(
    config: dict,
    row: Row,
    checkpointed_layers: int,
    storage: Storage | None = None,
    rank: int | None = 16,
    targets: object = "all-linear",
    is_fused: bool = True,
    parameters: list[str] | None = None,
) -> float:
    """Activations by arithmetic ÷ by the dry run; weights, adapter and gradients have to agree exactly."""
    storage = storage or Storage()
    shape = counting.count(config, rank, targets, parameters, is_quantised=storage.bits < 16, is_fused=is_fused)
    adapter = {"rank": rank, "targets": targets, "parameters": parameters, "is_fused": is_fused}
    found = dry_run.run(config, row, storage, **adapter, checkpointed_layers=checkpointed_layers)
    state = memory.training_state(shape, storage)
    static = sum(memory.weights(shape, storage).values()) + state["LoRA weights"] + state["gradients"]
    assert static == pytest.approx(found.static, rel=1e-4)
    _, parts = memory.activations(shape, found.row, storage, checkpointed_layers)
    return sum(parts.values()) / (found.peak - found.static)


@pytest.mark.parametrize("checkpointed_layers", [0, 2, LAYERS])
@pytest.mark.parametrize("name", SHAPES)
def test_five_real_shapes(name, checkpointed_layers):
    found = ratio(shallow(SHAPES[name], LAYERS), Row(2048), checkpointed_layers)
    # With nothing recomputed the first layer keeps less, since nothing below it is trained: 2 % of four layers.
    assert found == pytest.approx(1, abs=0.002 if checkpointed_layers else 0.025)


def test_a_real_shape_at_full_depth():
    config = SHAPES["Llama-3.1-8B"]
    layers = config["num_hidden_layers"]
    for checkpointed_layers in (0, layers // 2):
        assert ratio(config, Row(2048), checkpointed_layers) == pytest.approx(1, abs=0.005)


def test_layers_with_local_and_global_attention():
    """Gemma 3 repeats five local layers and a global one; these are two repetitions."""
    for checkpointed_layers in (6, 12):
        found = ratio(shallow(SHAPES["Gemma-3-12B"], 12), Row(2048), checkpointed_layers)
        assert found == pytest.approx(1, abs=0.005)


def test_the_dry_run_is_linear_in_layers():
    def peak(layers: int) -> float:
        found = dry_run.run(shallow(SHAPES["Qwen3-8B"], layers), Row(1024), Storage(), rank=16)
        return found.peak

    two, three, six = peak(2), peak(3), peak(6)
    assert six - two == pytest.approx(4 * (three - two), rel=1e-9)


@pytest.mark.parametrize(("tokens", "share"), [(256, 0.6), (1024, 0.3), (6144, 0.9)])
def test_lengths_and_shares_of_completions(tokens, share):
    assert ratio(shallow(SHAPES["Llama-3.1-8B"], 3), Row(tokens, share), 2) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", ["allenai/OLMo-2-1124-7B-SFT", "HuggingFaceTB/SmolLM3-3B", "Qwen/Qwen3-0.6B"])
@pytest.mark.parametrize("checkpointed_layers", [2, LAYERS])
def test_other_families(name, checkpointed_layers):
    assert ratio(shallow(MODELS[name], LAYERS), Row(2048), checkpointed_layers) == pytest.approx(1, abs=0.005)


def test_a_vision_language_model_on_text():
    config = shallow(MODELS["mistralai/Ministral-3-8B-Instruct-2512-BF16"], LAYERS)
    assert ratio(config, Row(2048), LAYERS) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("width", [1024, 4096])
def test_soft_capped_attention_on_padded_rows(width):
    config, row = shallow(MODELS["google/gemma-2-9b-it"], LAYERS), Row(2 * width, kernel=EAGER, width=width)
    assert ratio(config, row, LAYERS) == pytest.approx(1, abs=0.04)


def test_padded_rows():
    row = Row(4096, kernel=SDPA, width=2048)
    assert ratio(shallow(SHAPES["Llama-3.1-8B"], LAYERS), row, LAYERS) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("storage", "rank", "targets", "tolerance"),
    [
        (Storage(), 128, "all-linear", 0.01),
        (Storage(is_double=False), 16, "all-linear", 0.002),
        (Storage(trained=2), 16, "all-linear", 0.002),
        (Storage(), 16, ["q_proj", "v_proj"], 0.02),
        (Storage(bits=16), 16, "all-linear", 0.002),
    ],
)
def test_how_weights_and_adapters_are_kept(storage, rank, targets, tolerance):
    found = ratio(shallow(SHAPES["Llama-3.1-8B"], LAYERS), Row(2048), LAYERS, storage, rank, targets)
    assert found == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize(
    ("bits", "checkpointed_layers", "tolerance"), [(4, LAYERS, 0.002), (4, 0, 0.025), (16, LAYERS, 0.05)]
)
def test_layers_of_peft(bits, checkpointed_layers, tolerance):
    """With `fused_kernels: none`. An unquantised layer then stores its own copy of its input."""
    config, storage = shallow(SHAPES["Llama-3.1-8B"], LAYERS), Storage(bits=bits)
    assert ratio(config, Row(2048), checkpointed_layers, storage, is_fused=False) == pytest.approx(1, abs=tolerance)


def test_what_fused_layers_do_not_store():
    """The dry run of both, so that no formula is involved. 1024 tokens, 2 layers of 4096 numbers and 14336 products."""
    config = shallow(SHAPES["Llama-3.1-8B"], 2)

    def stored(bits: int, is_fused: bool) -> float:
        return dry_run.run(config, Row(1024), Storage(bits=bits), rank=16, is_fused=is_fused).stored

    # 2 of the 4 bytes of the inputs of four norms, and silu(gate) in 2 bytes. The first norm reads the embeddings, which need no
    # gradient, and stores nothing.
    saved = 4 * 4096 * 2 * 1024 + 2 * 14336 * 2 * 1024
    assert stored(4, False) - stored(4, True) == saved
    # PEFT's layers on 16-bit weights store their own copies: k and v that of q's input, o that of the attention's output, up
    # that of gate's input. 2 bytes, 1024 tokens, 2 layers.
    assert stored(16, False) - stored(16, True) == saved + 4 * 4096 * 2 * 1024 * 2


def test_float32_embeddings_double_the_residual_stream():
    row = Row(4096, kernel=SDPA, width=2048, activation=4)
    found = ratio(shallow(SHAPES["Llama-3.1-8B"], LAYERS), row, LAYERS, Storage(weight=4))
    assert found == pytest.approx(1, abs=0.05)


def test_full_fine_tuning():
    row = Row(4096, kernel=SDPA, width=2048, activation=4)
    found = ratio(shallow(SHAPES["Llama-3.1-8B"], 3), row, 3, Storage(bits=16, weight=4), None)
    assert found == pytest.approx(1, abs=0.15)


def test_a_layer_of_llama_by_hand():
    # Norms 2 inputs of 4096 and a root mean square each; their outputs 2 of 4096 · 2; queries and attention output 4096 · 2;
    # keys and values 1024 · 2; 32 statistics; 7 · 16 numbers of the LoRA. MLP: gate, up and product of 14336 · 2 bytes.
    rest = 2 * 4 + 2 * 8192 + 2 * 8192 + 2 * 2048 + 32 * 4 + 7 * 16 * 2
    by_hand = {True: rest + 2 * 8192 + 3 * 28672, False: rest + 2 * 16384 + 4 * 28672}
    for is_fused, expected in by_hand.items():
        shape = counting.count(SHAPES["Llama-3.1-8B"], 16, is_fused=is_fused)
        assert memory.stored_per_token(shape, Row(1, keys_per_token=1.0)) == expected
        assert memory.residue_per_token(shape, Row(1)) == 8192
    assert by_hand == {True: 139_624, False: 184_680}


@pytest.mark.parametrize(
    ("name", "size"), [("adamw_torch_fused", 8), ("paged_adamw_32bit", 8), ("paged_adamw_8bit", 2.03), ("sgd", 0)]
)
def test_optimizer_states(name, size):
    assert memory.optimizer_bytes(name) == size


def test_recomputing_saves_memory_layer_by_layer():
    shape = counting.count(SHAPES["Qwen3-8B"], 16)
    peaks = [memory.peak(shape, Row(2048), Storage(), count) for count in range(shape.layers + 1)]
    assert peaks == sorted(peaks, reverse=True)
    per_layer = memory.stored_per_token(shape, Row(2048)) - memory.residue_per_token(shape, Row(2048))
    expected = 2048 * per_layer + memory.stored_once(shape, Storage())
    assert peaks[0] - peaks[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "row", "checkpointed_layers", "parameters"),
    [
        ("Qwen/Qwen3-30B-A3B", Row(2048), 1, None),
        ("openai/gpt-oss-20b", Row(2048, kernel=EAGER, width=1024), 2, None),
        ("ibm-granite/granite-3.1-3b-a800m-instruct", Row(4096), 0, EXPERTS),
    ],
)
def test_mixtures_of_experts_in_4_bits(name, row, checkpointed_layers, parameters):
    config = shallow(MODELS[name], 2)
    assert ratio(config, row, checkpointed_layers, parameters=parameters) == pytest.approx(1, abs=0.05)
