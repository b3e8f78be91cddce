"""What transformers and PEFT alone say of this model: nothing of trl_ext is used here."""

import math
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig


def in_4_bits(model: str, architecture: Any = AutoModelForCausalLM, **more: Any) -> Any:
    """The base as the recipes quantise it, with float32 compute, on every CPU.

    On one with AVX512-BF16, bitsandbytes would compute in bfloat16, whatever is asked for, once a layer is evaluated.
    """
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    made = architecture.from_pretrained(model, dtype=torch.float32, quantization_config=bits, **more).eval()
    for layer in made.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    return made


class Scorer:
    """Log-probabilities of the answers in dialogues of HH, one sequence at a time."""

    def __init__(self, model: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(self, dialogue: str) -> tuple[list[int], list[int]]:
        """Token ids of the question, up to the answer, and of the answer with what the template puts after it."""
        question, answer = dialogue.removeprefix("\n\nHuman:").split("\n\nAssistant:")
        asked = [{"role": "user", "content": question.strip()}]
        answered = [*asked, {"role": "assistant", "content": answer.strip()}]
        prompt = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = self.tokenizer.apply_chat_template(answered, tokenize=False)
        assert whole.startswith(prompt)
        one, other = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
        return one, other[len(one) :]

    @torch.no_grad()
    def logps(self, model: Any, dialogue: str) -> list[float]:
        """Of each token of the answer."""
        prompt, answer = self.ids(dialogue)
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        return logits.log_softmax(-1)[range(len(answer)), answer].tolist()

    def of_pairs(self, model: Any, rows: list[dict[str, str]]) -> list[tuple[list[float], list[float]]]:
        """Of each pair the chosen and the rejected answer's."""
        return [(self.logps(model, row["chosen"]), self.logps(model, row["rejected"])) for row in rows]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def softplus(x: float) -> float:
    """−log σ(−x)."""
    return math.log1p(math.exp(x))
