"""Read a model's configuration, and report one that no model can be built from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from trl_ext.model_files import sizes
from trl_ext.support.errors import UserError
from trl_ext.support.messages import reason

AGAIN = "Correct it, or copy the model again."


def read(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read a model's configuration.

    Args:
        path: Folder or Hub name.
        revision: Commit, branch or tag on the Hub.
        trust_remote_code: Whether it may be code.

    Raises:
        UserError: transformers does not understand it, or it describes more layers than the weights in the folder have.
        OSError: It does not exist, or cannot be downloaded.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision or "main", trust_remote_code=trust_remote_code)
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    except OSError:
        raise
    except ValueError as error:  # of a type that transformers does not know, or of remote code that it may not run
        raise UserError(f"{path} cannot be loaded: {reason(error)}") from error
    except Exception as error:  # transformers raises many kinds of errors for a wrong configuration
        raise UserError(_text(path, error)) from error
    if Path(path).is_dir() and (why := sizes.missing_layers(Path(path), layers)):
        raise UserError(why)
    return config


def class_of(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class in transformers that a configuration names; `None` if there is no such class, as for remote code."""
    return getattr(transformers, (config.architectures or [""])[0], None)


def on_meta(path: str, config: PreTrainedConfig, *, is_classifier: bool = False) -> PreTrainedModel:
    """Build a model without storage. Its class is in transformers (`class_of`).

    Args:
        path: For messages.
        config: Of the model.
        is_classifier: Build a sequence classifier with one output instead; `config` is changed.

    Raises:
        UserError: transformers cannot build it.
    """
    try:
        with torch.device("meta"):
            if is_classifier:
                config.num_labels = 1
                return AutoModelForSequenceClassification.from_config(config)
            return class_of(config)._from_config(config)
    except Exception as error:  # as in `read`
        raise UserError(_text(path, error)) from error


@contextmanager
def loading(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Iterator[None]:
    """Load a model inside, whose configuration has been read.

    Raises:
        UserError: No model can be built from the configuration, or the weights are of other sizes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, RuntimeError) as error:
        if "ignore_mismatched_sizes" in str(error):  # the name of a setting, which is the only way to recognise it
            raise UserError(
                f"The weights of {path} are not of the sizes that its config.json gives (transformers lists them above). Copy config.json and "
                "weights of the same model."
            ) from error
        config = read(path, revision, trust_remote_code=trust_remote_code)
        if class_of(config) is not None:
            on_meta(path, config)
        raise


def _text(path: str, error: Exception) -> str:
    return f"The model {path} cannot be built from its config.json: {reason(error)} {AGAIN}"
