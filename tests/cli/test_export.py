"""`trl-ext export`: wrong input, and a whole export in which scripts and a stub stand for llama.cpp; itself: `make export-test`."""

import contextlib
import errno
import json
import os
import shlex
import sys
import types
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import finished_runs
from tests.export.gguf.test_converting import RECORDS
from tests.runs.test_hub import Hub
from trl_ext import demo
from trl_ext.cli import main
from trl_ext.export import commands
from trl_ext.export.gguf import predictions, tools
from trl_ext.report import card_blocks
from trl_ext.support.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    made = finished_runs.leave(tmp_path / "runs" / "Small Run", "embedded", loss="dpo")
    card_blocks.rewrite(made / "README.md", card_blocks.assemble("# Small", run="trained", results="", usage="use"))
    return made


@pytest.fixture
def llama_cpp(tmp_path, monkeypatch):
    """A folder with scripts in place of the converters, and a stub of the library that answers as the demo's tokenizer and model do."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    for name in (tools.CONVERTER, tools.LORA_CONVERTER):
        (folder / name).write_text(RECORDS)
    quantiser = folder / tools.QUANTISER
    quantiser.write_text('#!/bin/sh\ncp "$1" "$2"\nprintf \'%s\' "$3" >> "$2"\n')
    quantiser.chmod(0o755)
    monkeypatch.setattr(tools, "LIBRARIES", {})
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    stub = types.ModuleType("trl_ext.export.gguf.library")

    class Vocabulary:
        adds_begin = False

        def __init__(self, file):
            self.template = json.loads(file.read_text())["files"]["chat_template.jinja"]

        def tokens(self, text):
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        def close(self):
            pass

    @contextlib.contextmanager
    def opened(file, longest):
        """The base in place of any file, which has no adapter."""
        model = AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32)

        @torch.no_grad()
        def predict(completion):
            ids = torch.tensor([completion.prompt_ids + completion.ids])
            return model(ids).logits[0, len(completion.prompt_ids) - 1 : -1]

        yield predict

    stub.Vocabulary = Vocabulary
    monkeypatch.setattr(predictions, "opened", opened)
    monkeypatch.setitem(sys.modules, "trl_ext.export.gguf.library", stub)
    monkeypatch.setattr("trl_ext.export.gguf.library", stub, raising=False)
    return folder


def test_a_run_is_exported_measured_and_uploaded(run, llama_cpp, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    monkeypatch.setattr("trl_ext.export.verdict.CLOSE", 0)
    types = ["--gguf", "Q8_0", "--gguf", "q4_k_m,q8_0"]
    words = [*types, "--gguf-lora", "--llama_cpp", str(llama_cpp), "--pairs", "6", "--push_to_hub"]
    assert main(["export", str(run), *words]) == 0
    printed = capsys.readouterr().out
    folder = run / "gguf"
    files = {"Small Run-Q8_0.gguf", "Small Run-Q4_K_M.gguf", "Small Run-lora.gguf", "Modelfile", "export.json"}
    assert {file.name for file in folder.iterdir()} == files
    assert not [path for path in run.iterdir() if path.name.startswith(".")]  # neither staged nor merged files
    assert (folder / "Small Run-Q4_K_M.gguf").read_text().endswith("}Q4_K_M")  # quantised from the unquantised file
    record = json.loads((folder / "export.json").read_text())
    merge, base = (record["fidelity"][name] for name in ("total", "training"))
    for file in record["fidelity"][
        "files"
    ]:  # the stub answers as the base, from which the adapter is as far as the trained model
        assert (
            file["from_trained"]["kl"] == pytest.approx(base["kl"], rel=0.5)
            and file["from_merged"]["kl"] > 10 * merge["kl"]
        )
    assert [file["name"] for file in record["fidelity"]["files"]] == ["BF16", "Q8_0", "Q4_K_M"]
    assert (folder / "Modelfile").read_text().startswith('FROM ./Small Run-Q8_0.gguf\nTEMPLATE """')
    for part in (
        "merged → Q4_K_M",
        "trained → Q8_0",
        "ollama create small-run -f",
        "ollama run small-run",
        "llama-server --jinja -m",
    ):
        assert part in printed
    first, second = hub.commits
    assert first[0] == second[0] == "me/Small Run" and "uploaded to me/Small Run" in printed
    assert {"adapter_model.safetensors", "adapter_config.json", "recipe.resolved.yaml", "README.md"} <= first[1]
    assert not [name for name in first[1] if "gguf" in name] and second[1] == files
    assert "## GGUF" in first[2] and "| merged → Q4_K_M |" in first[2] and "trained" in first[2]

    said = (
        "per token from the merged model, and no file that was measured is closer."  # the stub answers alike for all
    )
    assert said in printed and said in first[2]

    assert main(["export", str(run), *words[:2], "--llama_cpp", str(llama_cpp)]) == 2
    assert "holds an earlier export. Remove it, or name a new folder with" in capsys.readouterr().err
    other = """file.read_text().replace("'<|'", "'<!'") for"""
    (llama_cpp / tools.CONVERTER).write_text(RECORDS.replace("file.read_text() for", other))
    monkeypatch.setattr("trl_ext.export.merging.merge", None)  # it would be called once the prompts agree
    assert main(["export", str(run), "--gguf", "F16", "--output", "other", "--llama_cpp", str(llama_cpp)]) == 2
    assert "The GGUF file would not be served as the model was trained" in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_run_that_trained_all_weights_is_exported_as_it_is(llama_cpp, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = finished_runs.leave_all_weights(tmp_path / "whole", str(demo.MODEL), loss="dpo")
    monkeypatch.setattr("trl_ext.export.merging.merge", None)  # nothing is merged
    hub, words = Hub(monkeypatch), ["export", str(run), "--gguf", "Q8_0", "--llama_cpp", str(llama_cpp)]
    for flag, said in (
        (["--gguf_lora"], "holds a complete model and no adapter"),
        (["--base", "org/x"], "merged into nothing"),
        (["--merged", "kept"], "nothing is merged"),
    ):
        assert main([*words, *flag]) == 2
        assert said in capsys.readouterr().err
    assert main([*words, "--pairs", "4", "--push_to_hub"]) == 0
    printed, record = capsys.readouterr().out, json.loads((run / "gguf" / "export.json").read_text())
    assert {file.name for file in (run / "gguf").iterdir()} == {"whole-Q8_0.gguf", "Modelfile", "export.json"}
    assert record["model"] == str(run) and "base" not in record and record["fidelity"]["total"] is None
    # The stub answers as the base, from which all weights were moved.
    assert [file["from_trained"]["kl"] > 0.01 for file in record["fidelity"]["files"]] == [True, True]
    assert "Nothing was merged: the run trained all weights." in printed and "trained → Q8_0" in printed
    assert "merged →" not in printed and "merging" not in printed
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= hub.commits[0][1]


def test_files_are_kept_if_llama_cpp_crashes_while_they_are_compared(run, llama_cpp, monkeypatch, capsys):
    def crashed(*_):
        raise UserError("llama.cpp cannot run x.gguf: it crashed (signal 4).")

    monkeypatch.setattr("trl_ext.export.fidelity.measure", crashed)
    words = ["--gguf", "Q8_0", "--llama_cpp", str(llama_cpp), "--pairs", "2"]
    assert main(["export", str(run), *words]) == 0
    printed = capsys.readouterr().out
    said = (
        "The files were written, but they could not be compared: llama.cpp cannot run x.gguf: it crashed (signal 4)."
    )
    record = json.loads((run / "gguf" / "export.json").read_text())
    assert said in printed and record["fidelity"] is None and said in record["notes"]
    assert {file.name for file in (run / "gguf").iterdir()} == {"Small Run-Q8_0.gguf", "Modelfile", "export.json"}


def test_nothing_is_left_of_an_export_that_ends_early(run, llama_cpp, monkeypatch, capsys):
    before = {path.name for path in run.iterdir()}
    for error, code, said in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "The disk is full. Nothing was written."),
        (
            UserError("llama.cpp failed: OSError: [Errno 28] No space left on device."),
            2,
            "The disk is full. Nothing was written.",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):
        monkeypatch.setattr("trl_ext.export.gguf.quantising.quantise", Mock(side_effect=error))
        words = ["--gguf", "Q8_0", "--no_check", "--llama_cpp", str(llama_cpp), "--merged", str(run.parent / "merged")]
        assert main(["export", str(run), *words]) == code
        assert said in capsys.readouterr().err
        assert {path.name for path in run.iterdir()} == before and not (run.parent / "merged").exists()


def test_commands_for_llama_cpp_pass_the_variables_of_the_run(run, llama_cpp, capsys):
    given = {"enable_thinking": False, "tone": "it's"}
    made = commands.of_gguf(Path("out"), "x", None, ["x.gguf"], "x-lora.gguf", given)
    for purpose, rest in (
        ("llama.cpp", "-m out/x.gguf"),
        ("llama.cpp, adapter", "-m BASE.gguf --lora out/x-lora.gguf"),
    ):
        server, jinja, flag, variables, *words = shlex.split(made[purpose])
        assert (server, jinja, flag) == ("llama-server", "--jinja", "--chat-template-kwargs")
        assert json.loads(variables) == given and words == rest.split()
    plain = commands.of_gguf(Path("out"), "x", None, ["x.gguf"], None)
    assert plain["llama.cpp"] == "llama-server --jinja -m out/x.gguf"
    with (run / "recipe.resolved.yaml").open("a") as file:
        file.write("chat_template_kwargs: {enable_thinking: false}\n")
    assert main(["export", str(run), "--gguf_lora", "--llama_cpp", str(llama_cpp)]) == 0
    said = """llama-server --jinja --chat-template-kwargs '{"enable_thinking": false}' -m BASE.gguf --lora """
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_rslora": True}, None),
        ({"use_dora": True}, "with `use_dora` cannot be exported alone"),
        ({"modules_to_save": ["lm_head"]}, "with `modules_to_save` cannot be exported alone"),
        ({"target_parameters": ["down_proj.weight"]}, "with `target_parameters` cannot be exported alone"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, " cannot be exported alone"),
    ],
)
def test_the_adapter_alone_is_plain_lora(settings, said, llama_cpp, tmp_path, capsys):
    """As PEFT saves it; `tests/export/gguf/test_converting.py` has the scale of rsLoRA."""
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(demo.MODEL), config).save_pretrained(tmp_path / "adapter")
    code = main(["export", str(tmp_path / "adapter"), "--gguf_lora", "--llama_cpp", str(llama_cpp)])
    if said is None:
        assert code == 0 and (tmp_path / "adapter" / "gguf" / "adapter-lora.gguf").exists()
        return
    errors = " ".join(capsys.readouterr().err.split())
    assert code == 2 and said in errors and "export the merged model with `--gguf`" in errors
    assert not any(path.name.startswith((".", "gguf")) for path in (tmp_path / "adapter").iterdir())


def test_wrong_input(run, llama_cpp, capsys):
    for words, said in (
        ([str(run)], "There is nothing to export. Add `--gguf Q4_K_M,Q8_0`, or `--gguf_lora`"),
        ([str(run), "--gguf", "Q4"], "`--gguf` names 'Q4': "),
        ([str(run), "--gguf_lora", "--merged", "new"], "`--gguf_lora` alone merges nothing"),
        (
            [str(run), "--gguf", "Q8_0", "--output", "new", "--merged", "new/m"],
            "Name folders that do not hold each other",
        ),
        ([str(run), "--gguf", "Q8_0", "--merged", str(run)], f"`--merged` is {run}, which exists and is not empty"),
        (["nowhere", "--gguf", "Q8_0"], "nowhere does not exist"),
    ):
        assert main(["export", *words, "--llama_cpp", str(llama_cpp)]) == 2, words
        assert said in " ".join(capsys.readouterr().err.split())
    for change, words, said in (
        (
            {"rank_pattern": {"q_proj": 4}},
            ["--gguf_lora"],
            "llama.cpp computes plain LoRA on linear layers, with one rank and one scale",
        ),
        ({"task_type": "SEQ_CLS"}, ["--gguf", "Q8_0"], "is a reward model. Only models that write text are exported"),
    ):
        config = json.loads((run / "adapter_config.json").read_text())
        (run / "adapter_config.json").write_text(json.dumps(config | change))
        assert main(["export", str(run), *words, "--llama_cpp", str(llama_cpp)]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        (run / "adapter_config.json").write_text(json.dumps(config))
    (run / "recipe.resolved.yaml").unlink()
    assert main(["export", str(run), "--gguf", "Q8_0", "--push_to_hub", "--llama_cpp", str(llama_cpp)]) == 2
    assert "`--push_to_hub` uploads a run, but" in capsys.readouterr().err
    assert not (run / "gguf").exists()
