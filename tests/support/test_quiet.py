"""What is hidden, and that nothing else is."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from trl_ext.support import quiet

NOISE = (
    "`is_gradient_checkpointing` is deprecated and will be removed in v6. Use `is_activation_checkpointing` instead.",
    "`gradient_checkpointing_disable` is deprecated and will be removed in v6.",
)


@pytest.mark.parametrize(
    ("message", "category", "module", "is_shown"),
    [
        (NOISE[0], FutureWarning, "transformers.modeling_utils", False),
        (NOISE[1], FutureWarning, "transformers.modeling_utils", False),
        (NOISE[0], FutureWarning, "my_own_code", True),
        (NOISE[0], UserWarning, "transformers.modeling_utils", True),
        ("`warmup_ratio` is deprecated", FutureWarning, "transformers.training_args", True),
        ("`beta` is deprecated", FutureWarning, "trl_ext.trainers.preference.config", True),
    ],
)
def test_warnings_are_hidden_by_what_they_say_and_who_says_it(message, category, module, is_shown):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet.hide_library_messages()
        warnings.warn_explicit(message, category, "file.py", 1, module=module)
    assert bool(seen) == is_shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure …"),
        ("autograd._functions", "MatMul8bitLt: inputs will be cast from %s to float16 during quantization"),
    ],
)
def test_of_bitsandbytes_this_alone_is_hidden(name, message, caplog):
    logger = logging.getLogger(f"bitsandbytes.{name}")
    logger.warning(message, "something")
    logger.warning("The library is broken")
    assert [record.getMessage() for record in caplog.records] == ["The library is broken"]


def test_bars_are_for_terminals(monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    for is_terminal, expected in ((True, None), (False, "1")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        quiet.hide_progress_off_terminals()
        assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == expected
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)


def test_a_model_is_loaded_in_silence_off_terminals():
    """What the libraries of today say: a bar, and on CPUs with 16-bit products the missing kernel."""
    code = (
        "from trl_ext import demo, recipe\nfrom trl_ext.runs import libraries\n"
        "libraries.configure(recipe.load('recipes/demo.yaml'))\n"
        "import trl_ext.trainers\n"
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig\n"
        "four_bit = BitsAndBytesConfig(load_in_4bit=True)\n"
        "model = AutoModelForCausalLM.from_pretrained(demo.MODEL, quantization_config=four_bit)\n"
        "model.is_gradient_checkpointing, model.gradient_checkpointing_disable()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_no_bar_of_loading_weights_on_a_terminal(monkeypatch, capsys):
    from transformers.utils import logging as of_transformers

    monkeypatch.setattr(of_transformers, "_tqdm_active", True)  # as on a terminal
    previous = of_transformers.set_tqdm_hook(None)
    try:
        assert list(of_transformers.tqdm(range(3), desc="Loading weights")) == [0, 1, 2]
        assert "Loading weights" in capsys.readouterr().err
        quiet.hide_loading_bars()
        assert list(of_transformers.tqdm(range(3), desc="Loading weights")) == [0, 1, 2]
        assert capsys.readouterr().err == ""
    finally:
        of_transformers.set_tqdm_hook(previous)


def test_no_bar_of_datasets_although_it_was_imported_before(monkeypatch, capsys):
    import datasets

    was_off = datasets.are_progress_bars_disabled()
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        quiet.hide_bars_of_datasets()
        assert datasets.are_progress_bars_disabled()
        datasets.Dataset.from_list([{"a": 1}]).map(lambda row: {"b": row["a"]}, load_from_cache_file=False)
        assert capsys.readouterr().err == ""
    finally:
        if not was_off:
            monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS")
            datasets.enable_progress_bars()
