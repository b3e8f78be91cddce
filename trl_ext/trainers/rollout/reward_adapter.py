"""A reward model that costs an adapter: trained as LoRA with a scalar head on the same base, scoring on it.

The folder is what TRL's RewardTrainer leaves behind: a PEFT adapter of a sequence classifier with one label, its head
among the saved modules. It is put on the causal language model under the name `reward`, head apart.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from trl.trainer.utils import pad

from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import reward as reward_folder
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.value_head import ValueHead


class RewardAdapter:
    """A reward function for TRL's trainers: scores of whole completions, read at their last token.

    Args:
        folder: Where the adapter was saved.
        base: Name or path of the base model it has to belong to.

    Raises:
        ValueError: Not the folder of a reward adapter, or one of another base. Nothing heavy has been loaded then.
    """

    __name__ = "reward_adapter"  # under which its rewards are logged

    def __init__(self, folder: str, base: str) -> None:
        if (problem := reward_folder.problem(folder, base)) is not None:
            raise ValueError(f"`reward_adapter` is {folder}, {problem}")
        self.folder = Path(folder).expanduser()

    def attach(
        self,
        model: PeftModel,
        *,
        tokenizer: Any,
        tokenize: Callable[[list], list[list[int]]],
        autocast: Callable[[], AbstractContextManager],
        device: torch.device,
        batch_size: int,
    ) -> None:
        """Put adapter and head on the policy's model, frozen.

        Args:
            model: The policy.
            tokenizer: The policy's; that of the adapter where its folder has none.
            tokenize: Token ids of prompts, as they are sampled from.
            autocast: Gives the context of a forward pass.
            device: Where the model computes.
            batch_size: Completions that are scored together.

        Raises:
            ValueError: The adapter's weights do not fit this model.
        """
        weights = load_file(self.folder / adapter_folder.WEIGHTS)
        (name,) = reward_folder.heads_of(weights)
        head = weights.pop(name)
        config = PeftConfig.from_pretrained(str(self.folder))
        config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
        model.add_adapter(roles.REWARD, config)
        result = set_peft_model_state_dict(model, weights, adapter_name=roles.REWARD)
        missing = [key for key in result.missing_keys if f".{roles.REWARD}." in key]
        if missing or result.unexpected_keys:
            raise ValueError(
                f"The reward adapter {self.folder} does not fit this model: {[*missing, *result.unexpected_keys][0]} is "
                "missing on one side. Train it on this base."
            )
        module = ValueHead(head.shape[1], bias=False, device=model.device).requires_grad_(False)
        module.weight.data.copy_(head[0])
        model.add_module(roles.HEADS[roles.REWARD], module)
        self._model, self._device, self._autocast = model, device, autocast
        self._tokenize, self._batch_size, self._pad_token_id = tokenize, batch_size, tokenizer.pad_token_id
        has_tokenizer = (self.folder / "tokenizer_config.json").exists()
        self._tokenizer = AutoTokenizer.from_pretrained(self.folder) if has_tokenizer else tokenizer
        self._after_eos = _after_eos(self._tokenizer)

    def __call__(self, prompts: list, completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        """One score per completion, read where the classifier was trained, in batches as large as those of a step."""
        rows = [
            self._as_trained([*ids, *completion], is_chat=isinstance(prompt, list))
            for prompt, ids, completion in zip(prompts, self._tokenize(prompts), completion_ids, strict=True)
        ]
        size = self._batch_size
        scores = [self._score(rows[start : start + size]) for start in range(0, len(rows), size)]
        return torch.cat(scores).tolist()

    def _as_trained(self, row: list[int], is_chat: bool) -> list[int]:
        """The tokens up to the one a sequence classifier reads: the last that is not padding.

        In a chat the template may write more after the end of an answer, which sampling does not; and where padding
        is the end-of-sequence token, the classifier reads the token before it.
        """
        if is_chat and row[-1] == self._tokenizer.eos_token_id:
            row = [*row, *self._after_eos]
        length = next((i for i in range(len(row), 1, -1) if row[i - 1] != self._tokenizer.pad_token_id), 1)
        return row[:length]

    def _score(self, rows: list[list[int]]) -> Tensor:
        ids = [torch.tensor(row) for row in rows]
        # Padded on the left, so that the last token of every row is the last column.
        input_ids = pad(ids, padding_value=self._pad_token_id, padding_side="left")
        attention_mask = pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left")
        with roles.acting_as(self._model, roles.REWARD), no_grad_eval(self._model), self._autocast():
            hidden = roles.last_hidden_state(self._model, input_ids.to(self._device), attention_mask.to(self._device))
            return self._model.reward_head(hidden[:, -1])


def _after_eos(tokenizer: Any) -> list[int]:
    """Token ids that the chat template writes after an answer's end-of-sequence token."""
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] == tokenizer.eos_token_id), None)
    return [] if last is None else list(ids[last + 1 :])
