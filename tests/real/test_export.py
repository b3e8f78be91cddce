"""A real chat model as GGUF: what the quantised files lose, and what they say. Part of `make export-test`."""

import json

import pytest

from tests import finished_runs
from trl_ext.cli import main
from trl_ext.export.gguf import tools
from trl_ext.support.errors import UserError

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: `make export-test`")
try:
    tools.find(None)
except UserError as error:
    pytest.skip(f"needs llama.cpp: `make export-test`. {error}", allow_module_level=True)

pytestmark = pytest.mark.slow


def test_quantised_files_answer_and_their_loss_is_that_of_their_type(real_model, tmp_path):
    run = finished_runs.leave(tmp_path / "chat", real_model, scale=0.01, load_in_4bit=True, loss="dpo")
    assert main(["export", str(run), "--gguf", "Q8_0,Q4_K_M", "--pairs", "4"]) == 0
    record = json.loads((run / "gguf" / "export.json").read_text())
    kl = {file["name"]: file["from_merged"]["kl"] for file in record["fidelity"]["files"]}
    # A model this small is sensitive: Q8_0 costs 0.005 nats on harmless dialogues (docs/export.md).
    assert kl["BF16"] < 1e-3 and kl["BF16"] < kl["Q8_0"] < 0.02 < kl["Q4_K_M"] < 0.5
    assert record["fidelity"]["quantisation"]["kl"] > 0.01  # of the base in 4 bits
    for file in record["files"]:
        model = llama_cpp.Llama(str(run / "gguf" / file), n_ctx=256, verbose=False)
        asked = [{"role": "user", "content": "Give me one tip for better sleep."}]
        said = model.create_chat_completion(asked, temperature=0, max_tokens=40)["choices"][0]["message"]["content"]
        assert "sleep" in said and "caffeine" in said  # as the 16-bit model answers
