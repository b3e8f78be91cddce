"""A real chat model as GGUF: what the quantised files lose, and what they say. Part of `make export-test`."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

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


ASKED = [{"role": "user", "content": "Give me one tip for better sleep."}]

BOUNDS = {"Q8_0": 0.01, "Q4_K_M": 0.1}
"""Of `gap`, by type. Builds of llama.cpp round differently, so that greedy answers differ where two tokens are about equally likely."""

WITHOUT_TEMPLATE = 0.3
"""The answer to the same question as plain text, without the chat template, has a larger `gap`."""


def test_quantised_files_answer_and_their_loss_is_that_of_their_type(real_model, tmp_path):
    run = finished_runs.leave(tmp_path / "chat", real_model, scale=0.01, load_in_4bit=True, loss="dpo")
    assert (
        main(["export", str(run), "--gguf", "Q8_0,Q4_K_M", "--pairs", "4", "--merged", str(tmp_path / "merged")]) == 0
    )
    record = json.loads((run / "gguf" / "export.json").read_text())
    kl = {file["name"]: file["from_merged"]["kl"] for file in record["fidelity"]["files"]}
    # A model this small is sensitive: Q8_0 costs 0.005 nats on harmless dialogues (docs/export.md).
    assert kl["BF16"] < 1e-3 and kl["BF16"] < kl["Q8_0"] < 0.02 < kl["Q4_K_M"] < 0.5
    assert record["fidelity"]["quantisation"]["kl"] > 0.01  # of the base in 4 bits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for file in record["files"]:
        model = llama_cpp.Llama(str(run / "gguf" / file), n_ctx=256, verbose=False)
        said = model.create_chat_completion(ASKED, temperature=0, max_tokens=40)["choices"][0]["message"]["content"]
        without = model.create_completion(ASKED[0]["content"], temperature=0, max_tokens=40)["choices"][0]["text"]
        bound = next(bound for kind, bound in BOUNDS.items() if file.endswith(f"{kind}.gguf"))
        assert gap(merged, tokenizer, said) < bound < WITHOUT_TEMPLATE < gap(merged, tokenizer, without)


@torch.no_grad()
def gap(merged: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answer: str) -> float:
    """How much less likely the tokens of a greedy answer are than the best ones, by the merged model: mean over tokens, nats."""
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    logps = merged(torch.cat([torch.tensor([prompt]), ids], dim=1)).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return (logps.amax(1) - logps.gather(1, ids.T).squeeze(1)).mean().item()
