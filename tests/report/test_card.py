"""The card of a run: its lines load what was trained."""

import re

import torch
from safetensors.torch import load_file

from tests.test_run import recipe  # noqa: F401  (a fixture)
from trl_ext.cli import main


def test_the_lines_of_a_card_load_the_run(recipe, tmp_path):  # noqa: F811
    assert main(["run", recipe(), "--output_dir", "out"]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "trained in 4 bits (nf4)" in card
    assert "| max_steps | `2` |" in card and "num_train_epochs" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    found = {}
    exec(code.replace("<this directory>", str(tmp_path / "out")), found)
    state = found["model"].state_dict()
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert saved and all(
        torch.equal(state[name.replace(".weight", ".default.weight")], value) for name, value in saved.items()
    )
    assert found["tokenizer"].eos_token == "</s>"
