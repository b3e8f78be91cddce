"""With FSDP a 4-bit base is loaded in main memory, stored as numbers, which can be sharded."""

from types import SimpleNamespace

import pytest
from bitsandbytes.nn import Params4bit

from trl_ext import recipe
from trl_ext.build.dtypes import precision
from trl_ext.build.model import load_policy

RECIPE = """model_name_or_path: embedded
dataset_name: embedded
use_peft: true
load_in_4bit: true
use_cpu: true
row_tokens: 512
gradient_checkpointing: true
"""


@pytest.fixture
def loaded(tmp_path):
    path = tmp_path / "recipe.yaml"

    def load(lines: str = ""):
        path.write_text(RECIPE + lines)
        args = SimpleNamespace(
            model_init_kwargs=None, trust_remote_code=False, world_size=2, seed=0, disable_dropout=True
        )
        found = recipe.load(str(path), {})
        return load_policy(found, args, precision(found), [])

    return load


def test_its_weights_can_be_sharded(loaded):
    model, adapter = loaded("fsdp: true\n")
    weights = [p for p in model.parameters() if isinstance(p, Params4bit)]
    assert weights and all(p.is_floating_point() and p.device.type == "cpu" and p.bnb_quantized for p in weights)
    assert adapter.keys() == {"peft_config"}


def test_without_fsdp_trl_loads_it(loaded):
    path, adapter = loaded()
    assert isinstance(path, str) and not adapter["quantization_config"].bnb_4bit_quant_storage.is_floating_point
