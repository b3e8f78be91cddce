"""Errors of a trainer's construction name the setting to change; other errors are not touched."""

from types import SimpleNamespace

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers.integrations import CometCallback

from trl_ext.build.refusals import as_user_errors
from trl_ext.support.errors import UserError

RECIPE = {"attn_implementation": "flash_attention_2"}


def construct(error=None, pushes=False, call=None):
    with as_user_errors(RECIPE, SimpleNamespace(push_to_hub=pushes)):
        if call is not None:
            call()
        raise error


def test_a_tracker_that_is_not_installed():
    """transformers' own sentence is kept, whatever it says besides the words that it is recognised by."""
    with pytest.raises(
        UserError, match=r"`report_to`: .*requires comet-ml.*to be installed.* Or remove it from `report_to`"
    ):
        construct(call=CometCallback)


def test_the_hub_that_takes_no_repository():
    with pytest.raises(
        UserError, match="`push_to_hub` is true, and the repository cannot be created on the Hub: no route"
    ):
        construct(OfflineModeIsEnabled("no route.\nmore"), pushes=True)
    with pytest.raises(OfflineModeIsEnabled):
        construct(OfflineModeIsEnabled("no route"))


def test_a_kernel_that_is_not_installed():
    with pytest.raises(
        UserError, match=r"`attn_implementation` is flash_attention_2, and the package is missing\. Remove it"
    ):
        construct(ImportError("FlashAttention2 has an error: the package is missing."))


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("CUDA error"), KeyError("x")])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        construct(error)


def test_settings_that_the_trainer_refuses():
    with pytest.raises(UserError, match="a sentence"):
        construct(ValueError("a sentence"))
