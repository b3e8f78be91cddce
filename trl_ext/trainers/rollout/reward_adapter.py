"""Score completions with a reward model that is an adapter with a scalar head on the policy's base.

The folder is the output of TRL's RewardTrainer: a PEFT adapter of a sequence classifier with one label, whose head is among
the saved modules. The adapter is added to the causal language model under the name `reward`, the head separately.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from trl_ext.batching.packed import Tree
from trl_ext.batching.padded import padded_batch
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import reward as reward_folder
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import forward
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.value_head import ValueHead


class RewardAdapter:
    """A reward function for TRL's trainers: scores whole completions at their last token.

    Args:
        folder: Where the adapter was saved.
        base: Name or path of the base model that it must belong to.

    Raises:
        ValueError: Not the folder of a reward adapter, or one of another base. Raised before anything large is loaded.
    """

    __name__ = "reward_adapter"  # its rewards are logged under this name

    def __init__(self, folder: str, base: str) -> None:
        if (problem := reward_folder.problem(folder, base)) is not None:
            raise ValueError(f"`reward_adapter` is {folder}, {problem}")
        self.folder = Path(folder).expanduser()

    def attach_to_trainer(self, trainer: Any) -> None:
        """As `attach`: on the policy of a `RolloutTrainer`, which runs the adapter in its rows."""
        model, rows = trainer.model, trainer.rows
        self.attach(
            model,
            tokenizer=trainer.processing_class,
            tokenize=lambda prompts: trainer._tokenize_prompts(prompts)[0],
            values=lambda trees, width: rows.scalars(trees, width, model.reward_head),
        )

    def attach(
        self,
        model: PeftModel,
        *,
        tokenizer: Any,
        tokenize: Callable[[list], list[list[int]]],
        values: Callable[[list[Tree], int], Tensor] | None = None,
    ) -> None:
        """Put adapter and head on the policy's model, frozen.

        Args:
            model: The policy.
            tokenizer: The policy's; that of the adapter where its folder has none.
            tokenize: Token ids of prompts, as they are sampled from.
            values: The number (B, C) that the head gives the state before each token of B completions, one per prompt; called
                with C, while the adapter is active, without gradient (default: computed in one padded batch).

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
                f"The reward adapter {self.folder} does not fit this model: {[*missing, *result.unexpected_keys][0]} exists in "
                "only one of the two. Train the reward model on this base."
            )
        module = ValueHead(head.shape[1], bias=False, device=model.device).requires_grad_(False)
        module.weight.data.copy_(head[0])
        model.add_module(roles.HEADS[roles.REWARD], module)
        self._model, self._tokenize, self._pad_token_id = model, tokenize, tokenizer.pad_token_id
        self._values = values or self._values_padded
        has_tokenizer = (self.folder / "tokenizer_config.json").exists()
        self._tokenizer = AutoTokenizer.from_pretrained(self.folder) if has_tokenizer else tokenizer
        self._after_eos = _after_eos(self._tokenizer)

    def __call__(self, prompts: list, completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        """One score per completion, read at the token at which the classifier was trained."""
        rows = zip(prompts, self._tokenize(prompts), completion_ids, strict=True)
        trees = [self._tree(ids, completion, is_chat=isinstance(prompt, list)) for prompt, ids, completion in rows]
        lengths = [len(tree.completions[0]) for tree in trees]
        with roles.acting_as(self._model, roles.REWARD), no_grad_eval(self._model):
            values = self._values(trees, max(lengths, default=1))
        last = torch.tensor(lengths, device=values.device).unsqueeze(1) - 1
        return values.gather(1, last).squeeze(1).tolist()

    def _tree(self, prompt: list[int], completion: list[int], is_chat: bool) -> Tree:
        """The tokens up to the one that the classifier reads, and one more, before which they are the state."""
        read = self._as_trained([*prompt, *completion], is_chat)
        shared = prompt if len(read) >= len(prompt) else read
        return Tree(shared, [[*read[len(shared) :], self._pad_token_id]])

    def _as_trained(self, row: list[int], is_chat: bool) -> list[int]:
        """The tokens up to the one that a sequence classifier reads: the last that is not padding.

        A chat template may add tokens after the end of an answer, which are not sampled. If the padding token is the
        end-of-sequence token, the classifier reads the token before it.
        """
        if is_chat and row[-1] == self._tokenizer.eos_token_id:
            row = [*row, *self._after_eos]
        length = next((i for i in range(len(row), 1, -1) if row[i - 1] != self._tokenizer.pad_token_id), 1)
        return row[:length]

    def _values_padded(self, trees: list[Tree], width: int) -> Tensor:
        batch = padded_batch(trees, self._pad_token_id)
        batch = {name: tensor.to(self._model.device) for name, tensor in batch.items()}
        return forward.at_the_start(*forward.scalars(self._model, self._model.reward_head, batch), width)


def _after_eos(tokenizer: Any) -> list[int]:
    """Token ids that the chat template writes after an answer's end-of-sequence token."""
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] == tokenizer.eos_token_id), None)
    return [] if last is None else list(ids[last + 1 :])
