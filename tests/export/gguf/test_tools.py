"""llama.cpp is found by flag, variable or PATH, in this order; what is missing is reported at once, each with its command."""

import importlib.util
import os
import stat

import pytest

from trl_ext.cli import main
from trl_ext.export.gguf import quantising, tools
from trl_ext.support.errors import UserError


@pytest.fixture
def packages(monkeypatch):
    """All packages count as installed, except those that the test removes."""
    present, find = set(tools.LIBRARIES), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (name in present or None) if name in tools.LIBRARIES else find(name)
    )
    monkeypatch.delenv(tools.FOLDER, raising=False)
    monkeypatch.setenv("PATH", os.defpath)
    return present


def place(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
    return folder


def test_flag_then_variable_then_path(packages, tmp_path, monkeypatch):
    named, variable, path = (tmp_path / name for name in ("named", "variable", "path"))
    place(path, tools.CONVERTER, tools.LORA_CONVERTER)
    program = place(path, tools.QUANTISER) / tools.QUANTISER
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path))
    found = tools.find(None, needs_lora=True)
    assert found == (path / tools.CONVERTER, path / tools.LORA_CONVERTER, path / tools.QUANTISER)
    place(variable / "vendor" / "llama.cpp", tools.CONVERTER)  # an unpacked source distribution
    monkeypatch.setenv(tools.FOLDER, str(variable))
    assert tools.find(None).converter == variable / "vendor" / "llama.cpp" / tools.CONVERTER
    place(named, tools.CONVERTER)
    place(named / "build" / "bin", tools.QUANTISER)
    found = tools.find(str(named))
    assert found == (named / tools.CONVERTER, None, named / "build" / "bin" / tools.QUANTISER)


def test_all_that_is_missing_is_said_before_the_run_is_looked_at(packages, tmp_path, capsys):
    packages.clear()
    assert main(["export", str(tmp_path / "no-such-run"), "--gguf", "Q8_0", "--gguf-lora"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "4 problems in the programs that write GGUF" in said and "no-such-run" not in said
    for part in (
        f"1. llama.cpp's {tools.CONVERTER} is not on PATH, and neither `--llama_cpp` nor LLAMA_CPP names its folder. Get it with `git clone",
        f"2. llama.cpp's {tools.LORA_CONVERTER} is not",
        "3. llama-cpp-python is not installed. Install it with `pip install llama-cpp-python`.",
        "4. sentencepiece is not installed. Install it with `pip install sentencepiece`.",
    ):
        assert part in said
    packages.update(tools.LIBRARIES)
    with pytest.raises(UserError, match=f"is neither in {tmp_path} \\(`--llama_cpp`\\) nor on PATH"):
        tools.find(str(tmp_path))
    with pytest.raises(UserError, match="`--llama_cpp` is nowhere, and there is no such folder"):
        tools.find("nowhere")
    with pytest.raises(UserError, match="which is a file"):
        tools.find(__file__)


def test_types():
    assert quantising.read("q4_k_m, Q8_0,Q8_0") == ["Q4_K_M", "Q8_0"]
    for given, message in (
        ("Q4_K_X", "names 'Q4_K_X': did you mean Q4_K_S, Q4_K_M"),
        ("q4", r"names 'q4': did you mean Q4_K_M, Q4_K_S, Q4_1 or Q4_0\?"),
        ("IQ1_S", "names 'IQ1_S', which needs an importance matrix. The smallest type without one is Q2_K."),
        (",", "has no type: give for instance Q4_K_M,Q8_0"),
    ):
        with pytest.raises(ValueError, match=message):
            quantising.read(given)
