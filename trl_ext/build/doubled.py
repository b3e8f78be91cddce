"""Remove from the examples of a recipe what its tokenizer, chat template or trainer adds to them."""

from __future__ import annotations

from typing import Any

from trl_ext.data.examples import Examples
from trl_ext.inspection import doubled, special_tokens
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.inspection.tokenise import of_trainer
from trl_ext.methods import Method


def without_doubled(
    method: Method, args: Any, given: Examples, processing_class: Any, model: ModelFiles, statements: list[str]
) -> Examples:
    """The examples with no end, beginning or prompt that would stand twice, for training and for evaluation.

    Args:
        method: The kind of training.
        args: The trainer's configuration.
        given: The examples.
        processing_class: Tokenizer or processor.
        model: What is known of the base model.
        statements: Receives sentences about what was removed, and about a chat template that ends no turn.
    """
    tokenizer = text_tokenizer(of_trainer(method, processing_class, args))
    train, found = doubled.remove(given.train, tokenizer, model.stop_tokens, given.numbers)
    statements += found
    evaluation = given.evaluation
    if evaluation is not None:
        evaluation, found = doubled.remove(evaluation, tokenizer, model.stop_tokens)
        statements += [f"Evaluation data: {sentence}" for sentence in found]
    if doubled.is_chat(train) and (sentence := special_tokens.on_end_of_turn(tokenizer, model.stops)):
        statements.append(sentence)
    return given._replace(train=train, evaluation=evaluation)
