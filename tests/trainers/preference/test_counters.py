"""What transformers counts of a run, from examples here and from padded batches there."""

import pytest
from trl import DPOConfig, DPOTrainer

from tests.trainers.helpers import arguments, build
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


@pytest.mark.parametrize("packing", [True, False])
def test_tokens_and_operations_are_those_trl_counts_without_padding(packing, tiny_model, tmp_path):
    counted = {"include_num_input_tokens_seen": "non_padding"}
    theirs = build(DPOTrainer, DPOConfig(**arguments(tmp_path / "trl", **counted)), tiny_model)
    halved = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    config = PairedPreferenceConfig(**arguments(tmp_path, **halved, **counted), packing=packing, row_tokens=100)
    ours = build(PairedPreferenceTrainer, config, tiny_model)
    theirs.train()
    ours.train()
    tokens = theirs.state.num_input_tokens_seen
    assert ours.state.num_input_tokens_seen == tokens > 0
    # 2 operations per weight and token in the forward pass, 4 in the backward pass; TRL counts padding too.
    assert ours.state.total_flos == 6 * tokens * theirs.model.num_parameters(exclude_embeddings=True)
    assert ours.state.total_flos < theirs.state.total_flos
