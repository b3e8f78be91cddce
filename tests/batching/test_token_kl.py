"""KL of whole next-token distributions against full logits in float64, and its logits against those of TRL's fused head."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig
from trl.trainer.utils import add_fused_lm_head

from trl_ext.batching import token_kl
from trl_ext.batching.token_kl import States

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "plain": LlamaConfig(**SIZES),
    "capped": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=1.5),
    "scaled": CohereConfig(**SIZES, logit_scale=0.3),
    "divided": GraniteConfig(**SIZES, logits_scaling=3.0),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_those_of_the_fused_head(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    add_fused_lm_head(model)
    ids = torch.randint(3, 40, (1, 9))
    with torch.no_grad():
        fused = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs[0]
        hidden = model.base_model(ids).last_hidden_state[0, :-1]
    head, text = model.get_output_embeddings(), model.config.get_text_config()
    scale, cap = token_kl.logit_scale(text), getattr(text, "final_logit_softcapping", None)
    found = token_kl.log_probs(States(hidden, head.weight, head.bias), scale, cap)
    torch.testing.assert_close(found.gather(1, ids[0, 1:, None])[:, 0], fused.flatten(), atol=1e-5, rtol=1e-5)


def test_values_and_gradient_over_several_tiles(monkeypatch):
    monkeypatch.setattr(token_kl, "TILE", 4)
    torch.manual_seed(0)
    ref_hidden, hidden = torch.randn(10, 16), torch.randn(10, 16, requires_grad=True)
    ref_weight, weight = torch.randn(40, 16), torch.randn(40, 16, requires_grad=True)
    found = token_kl.token_kl(
        States(ref_hidden, ref_weight, None), States(hidden, weight, torch.ones(40)), CONFIGS["capped"]
    )
    upstream = torch.randn(10)
    found.backward(upstream)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    p = (1.5 * torch.tanh(ref_hidden.double() @ ref_weight.double().T / 1.5)).softmax(-1)
    q = (1.5 * torch.tanh((exact[0] @ exact[1].T + 1) / 1.5)).softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    expected.backward(upstream.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for tensor, reference in zip((hidden, weight), exact, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, atol=1e-5, rtol=1e-4)
