"""Exports by llama.cpp itself: `make export-test`. Skipped where llama-cpp-python or the converters are missing."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import finished_runs
from tests.export.gguf import templates
from tests.export.gguf.go_templates import ollama, variables
from tests.export.gguf.test_modelfile import TALKS, talk, template_of, tokenizer_of
from trl_ext import demo
from trl_ext.cli import main
from trl_ext.export.gguf import converting, modelfile, tools, turns
from trl_ext.support.errors import UserError

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: `make export-test`")
try:
    LLAMA_CPP = tools.find(None, needs_lora=True)
except UserError as error:
    pytest.skip(f"needs llama.cpp: `make export-test`. {error}", allow_module_level=True)

from trl_ext.export.gguf import library, served  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_runs.leave(tmp_path_factory.mktemp("gguf") / "small", "embedded", loss="dpo")


@pytest.fixture(scope="module")
def exported(run) -> dict:
    """The record of an export, and the files beside the run."""
    words = ["--gguf", "Q8_0,Q4_K_M,BF16", "--gguf_lora", "--pairs", "4", "--merged", str(run.parent / "merged")]
    assert main(["export", str(run), *words]) == 0
    return json.loads((run / "gguf" / "export.json").read_text())


def test_each_step_adds_what_it_should(exported):
    files = {file["name"]: file for file in exported["fidelity"]["files"]}
    assert list(files) == ["BF16", "Q8_0", "Q4_K_M"]
    kl = {name: file["from_merged"]["kl"] for name, file in files.items()}
    assert kl["BF16"] < 1e-5 < kl["Q4_K_M"] and kl["Q8_0"] < 1e-3 and kl["Q8_0"] < kl["Q4_K_M"]
    merge = exported["fidelity"]["total"]["kl"]
    assert files["BF16"]["from_trained"]["kl"] == pytest.approx(merge, abs=1e-5 + 0.05 * merge)
    assert files["Q4_K_M"]["from_trained"]["kl"] > kl["Q4_K_M"] / 4


def test_it_answers_as_the_merged_model_does(run, exported):
    model = AutoModelForCausalLM.from_pretrained(run.parent / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run.parent / "merged")
    messages = [{"role": "user", "content": "Write a review of the hotel."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :]
    served_model = llama_cpp.Llama(str(run / "gguf" / "small-BF16.gguf"), n_ctx=256, verbose=False)
    said = served_model.create_chat_completion(messages, temperature=0, max_tokens=24)["choices"][0]
    text = said["message"]["content"]
    whole = tokenizer.decode(expected, skip_special_tokens=True)
    assert text and whole[: len(text)][:12] == text[:12]  # later words are often equally likely


def test_the_prompt_of_ollama_has_the_tokens_of_training(run, exported):
    tokenizer = AutoTokenizer.from_pretrained(run)
    text = (run / "gguf" / "Modelfile").read_text()
    assert text.startswith("FROM ./small-Q8_0.gguf\n") and 'PARAMETER stop "<|end|>"' in text
    vocabulary = library.Vocabulary(run / "gguf" / "small-Q8_0.gguf")
    for messages in map(talk, TALKS):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert vocabulary.tokens(ollama(template_of(text), messages)) == ids
    assert vocabulary.ends(tokenizer.eos_token_id) and not vocabulary.ends(tokenizer.pad_token_id)
    vocabulary.close()


def test_a_wrong_template_or_tokenizer_is_refused_before_the_merge(run, tmp_path, monkeypatch, capsys):
    """The converter is given another template than the run's, as happens when a base's folder is converted by hand."""
    monkeypatch.setattr("trl_ext.export.merging.merge", None)
    whole = converting.without_generation_tags
    for change in (lambda text: whole(text).replace("'<|' + ", "'<' + "), lambda text: templates.CHATML):
        monkeypatch.setattr(converting, "without_generation_tags", change)
        assert main(["export", str(run), "--gguf", "Q8_0", "--output", str(tmp_path / "out")]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "would not be served as the model was trained: its chat template writes another prompt" in said
    assert not (tmp_path / "out").exists()


def test_no_begin_token_is_added_that_the_template_does_not_write(tmp_path):
    for name, writes in (("chatml", False), ("headers", True)):
        tokenizer = templates.tokenizer_with(templates.ALL[name])
        tokenizer.backend_tokenizer.post_processor = _begin(tokenizer)
        folder = tmp_path / name
        config = json.loads((demo.MODEL / "config.json").read_text())
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(tokenizer), "bos_token_id": 0}))
        for forced, adds in ((None, True), (served._forced(tokenizer), writes)):
            file = tmp_path / f"{name}-{forced}-{adds}.gguf"
            converting.convert_vocabulary(LLAMA_CPP.converter, folder, file, adds_begin=forced)
            vocabulary = library.Vocabulary(file)
            assert vocabulary.adds_begin is adds
            found = turns.learn(turns.renderer(tokenizer))
            if adds is writes:
                served._check(vocabulary, tokenizer, found, "m.gguf")
            else:
                with pytest.raises(UserError, match="has '<s>' where the prompt in training had"):
                    served._check(vocabulary, tokenizer, found, "m.gguf")
            vocabulary.close()


def _begin(tokenizer):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])


def test_the_adapter_alone_computes_what_peft_does(run, exported, tmp_path):
    base = tmp_path / "base.gguf"
    converting.convert(LLAMA_CPP.converter, demo.MODEL, base, "F32")
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32)
    for name, use_rslora in (("plain", False), ("rsLoRA", True)):
        folder, file = tmp_path / name, tmp_path / f"{name}.gguf"
        shutil.copytree(run, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": use_rslora}))
        converting.convert_adapter(LLAMA_CPP.lora_converter, folder, demo.MODEL, file)
        tuned = PeftModel.from_pretrained(model, folder).eval()
        beside = llama_cpp.Llama(str(base), lora_path=str(file), n_ctx=64, logits_all=True, verbose=False)
        ids = list(range(5, 45))
        beside.eval(ids[:-1])
        found = torch.tensor(beside.scores[7:39]).log_softmax(-1)
        with torch.no_grad():
            expected = tuned(torch.tensor([ids])).logits[0, 7:-1].log_softmax(-1)
            with tuned.disable_adapter():
                before = tuned(torch.tensor([ids])).logits[0, 7:-1].log_softmax(-1)
        model = tuned.unload()
        assert (expected - before).abs().max() > 0.1
        assert (found - expected).abs().max() < 0.05  # llama.cpp keeps keys and values in float16


@pytest.mark.skipif(shutil.which("go") is None, reason="needs the program go, for text/template itself")
def test_go_itself_renders_the_templates(tmp_path):
    tasks, expected = [], []
    for name in [*templates.ALL, "demo"]:
        tokenizer = tokenizer_of(name)
        template = modelfile.template(turns.learn(turns.renderer(tokenizer)))
        for messages in map(talk, TALKS):
            if name != "headers" and not (name == "brackets" and messages[0]["role"] == "system"):
                tasks.append({"template": template, "data": variables(messages)})
                expected.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    go = Path(__file__).with_name("render.go")
    done = subprocess.run(
        [shutil.which("go"), "run", go], input="\n".join(map(json.dumps, tasks)), capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GO111MODULE": "off"},
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
