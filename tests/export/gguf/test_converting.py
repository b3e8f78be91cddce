"""What the converters are given, and what is said when one fails; a script stands for them that records its arguments."""

import json
import math

import pytest
from transformers import AutoTokenizer

from tests.export.gguf import templates
from trl_ext import demo
from trl_ext.export.gguf import converting, entry, turns
from trl_ext.support.errors import UserError

RECORDS = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
files = {file.name: file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".jinja")}
output = Path(sys.argv[sys.argv.index("--outfile") + 1])
output.write_text(json.dumps({"arguments": sys.argv[2:], "files": files, "all": sorted(file.name for file in folder.iterdir())}))
"""


@pytest.fixture
def converter(tmp_path):
    file = tmp_path / "convert.py"
    file.write_text(RECORDS)
    return file


def test_the_template_loses_its_marks_for_training_and_writes_the_same(converter, tmp_path):
    tokenizer = templates.tokenizer_with(templates.MARKED)
    model, output = tmp_path / "model", tmp_path / "m.gguf"
    tokenizer.save_pretrained(model)
    (model / "model.safetensors").write_bytes(b"weights")
    converting.convert(converter, model, output, "BF16", adds_begin=False)
    found = json.loads(output.read_text())
    assert found["arguments"] == ["--outfile", str(output), "--outtype", "bf16", "--model-name", "m"]
    assert "model.safetensors" in found["all"]
    assert json.loads(found["files"]["tokenizer_config.json"])["add_bos_token"] is False
    served = found["files"]["chat_template.jinja"]
    assert "generation %}" in templates.MARKED and "generation %}" not in served
    for messages in turns.probes(allows_system=True):
        assert turns.renderer(tokenizer, served)(messages) == turns.renderer(tokenizer)(messages)
    assert "{% generation %}" in (model / "chat_template.jinja").read_text()  # transformers' copy keeps them


def test_the_scale_of_an_adapter_is_that_of_peft(converter, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    for use_rslora, scale in ((False, 16 / 4), (True, 16 / math.sqrt(4))):
        content = {"r": 4, "lora_alpha": 16, "use_rslora": use_rslora}
        (adapter / "adapter_config.json").write_text(json.dumps(content))
        converting.convert_adapter(converter, adapter, tmp_path, tmp_path / "lora.gguf")
        found = json.loads((tmp_path / "lora.gguf").read_text())
        assert found["arguments"][2:4] == ["--base", str(tmp_path)] and found["all"][1:] == [
            "adapter_model.safetensors"
        ]
        given = json.loads(found["files"]["adapter_config.json"])
        assert given["lora_alpha"] / given["r"] == pytest.approx(scale)  # llama.cpp's scale


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import logging\nlogging.basicConfig()\nlogging.getLogger('hf').error('Model Odd is not supported')\nexit(1)", "Model Odd is not supported."),
        ("raise NotImplementedError('BPE pre-tokenizer was not recognized - update')", "does not know how the model's tokenizer splits"),
        ("import sys\nsys.excepthook = lambda *_: print('OSError: [Errno 28] No space left on device\\nWriting:  36%|###', file=sys.stderr)\n1/0", "OSError: [Errno 28] No space left on device."),
        ("raise ModuleNotFoundError(\"No module named 'mistral_common'\")", "No module named 'mistral_common'."),
    ],
)  # fmt: skip
def test_a_converter_that_fails(script, said, tmp_path):
    (tmp_path / "convert.py").write_text(script)
    with pytest.raises(UserError) as caught:
        converting.convert_vocabulary(tmp_path / "convert.py", tmp_path, tmp_path / "v.gguf")
    assert str(caught.value).startswith("llama.cpp's convert.py failed: ") and said in str(caught.value)


def test_how_text_is_split_is_read_from_the_tokenizer(tmp_path):
    def of(tokenizer):
        return json.loads(tokenizer.backend_tokenizer.to_str())

    assert entry.named(of(AutoTokenizer.from_pretrained(demo.MODEL))) == "gpt-2"
    known = of(templates.tokenizer_with(templates.CHATML))
    assert entry.named(known) == "gpt-2"
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "pattern": {"Regex": entry.QWEN_2}, "behavior": "Isolated", "invert": False}
    whole = known["pre_tokenizer"] | {"use_regex": False}
    for parts, normalizer, name in (
        ([digits, known["pre_tokenizer"]], None, "smollm"),
        ([split, whole], {"type": "NFC"}, "qwen2"),
        ([split | {"pattern": {"Regex": entry.LLAMA_3}}, whole], None, "llama-bpe"),
        ([split | {"pattern": {"Regex": r"\s+"}}, whole], None, None),
        ([split, whole], None, None),
    ):
        changed = known | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}, "normalizer": normalizer}
        assert entry.named(changed) == name
    assert entry.named(known | {"pre_tokenizer": {"type": "Whitespace"}}) is None
    assert entry.named(known | {"pre_tokenizer": known["pre_tokenizer"] | {"add_prefix_space": True}}) is None
    assert entry.named(known | {"normalizer": {"type": "Lowercase"}}) is None
