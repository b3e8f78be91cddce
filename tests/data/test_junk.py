"""Whatever a file holds, it is counted or refused in a sentence; nothing raises anything else."""

import json
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from trl_ext import data, demo
from trl_ext.build.dataset import _numbers
from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.examples import Examples
from trl_ext.data.excerpt import excerpt
from trl_ext.data.prompts import PROMPTS
from trl_ext.data.row_kinds import count_kinds
from trl_ext.data.sources import open_source
from trl_ext.inspection.check import check
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError

TEXTS = st.sampled_from(
    ["", " ", "a", "a film", "😀 👩‍👩‍👧 é", "\x00\x1b[31m", "﷽" * 50, "x" * 100_000, "\\ud800", "<|end|>", "<|user|>", "{% x",
     "[{'role': 'user'", "null", "\n\nHuman: hi\n\nAssistant: ho", "‮abc", "\ud800", "a\udfffb"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": SCALARS | st.sampled_from(["user", "assistant", "system"]), "content": SCALARS}
)
TALK = st.tuples(TEXTS, TEXTS).map(
    lambda said: [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
)
VALUES = st.one_of(
    SCALARS,
    st.lists(MESSAGE, max_size=3),
    TALK,
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
    ),
)
COLUMNS = ("prompt", "chosen", "rejected", "completion", "label", "messages", "tools", "extra")
GOOD = {"prompt": "a", "chosen": " b", "rejected": " c"}


def row(values):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, values))


FILES = st.one_of(
    st.lists(row(VALUES), max_size=4),  # anything anywhere
    st.lists(row(TEXTS | st.none()), max_size=4).map(lambda rows: [GOOD, *rows]),  # texts, some missing
    st.lists(row(TALK | st.none()), max_size=4),
)
BYTES = st.sampled_from([b"", b"\xff\xfe", b'{"prompt": "\xc3"}\n', b"[1, 2]\n", b"{" * 5000, b'{"prompt": 1e999}\n'])


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(demo.MODEL))


def args(kind):
    common = {"max_length": 12, "truncation_mode": "keep_start", "dataset_num_proc": None, "pad_token": None}
    sft = {"packing": False, "eos_token": None, "chat_template_path": None, "assistant_only_loss": False}
    sft |= {"completion_only_loss": None, "dataset_text_field": "text", "shuffle_dataset": False}
    prompts = {"chat_template_kwargs": None, "max_completion_length": 4}
    return types.SimpleNamespace(**common, **sft, **prompts)


def look(path, kind, tokenizer):
    """What `trl-ext data` and a run do with a file, less the printing."""
    rows, _ = open_source(path, split="train", config=None, revision=None, streaming=False)
    count_kinds(rows)
    if kind in ("ppo", "sft"):
        loaded = plain_data.load(path, PROMPTS if kind == "ppo" else DEMONSTRATIONS)
    else:
        loaded = data.load(path)
        loaded = data.unpair(loaded) if kind == "unpaired" else loaded
        kind = "paired" if loaded.report.paired else "unpaired"
    str(loaded.report.sentences())
    given = Examples(loaded.dataset, None, loaded.report, _numbers(loaded))
    findings = check(METHODS[kind], given, tokenizer, args(kind), ModelFiles({0}, ["<|end|>"], 16)).findings
    findings.summary()
    findings.require_teachable()
    for finding in findings.found:
        for place in finding.rows[:3].tolist():
            excerpt(loaded.dataset[place])
    return len(findings.facts)


@given(FILES | BYTES, st.sampled_from(["paired", "unpaired", "ppo", "sft"]))
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_file_raises_anything_but_a_sentence(tokenizer, tmp_path_factory, content, kind):
    path = tmp_path_factory.mktemp("junk") / "rows.jsonl"
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content).encode()
    path.write_bytes(content)
    try:
        look(path, kind, tokenizer)
    except UserError as error:
        assert str(error)


def test_good_rows_get_through(tokenizer, write):
    rows = [{**GOOD, "chosen": f" {i} 😀"} for i in range(4)]
    assert look(write("rows.jsonl", rows), "paired", tokenizer) == 4
    assert look(write("rows.jsonl", rows), "unpaired", tokenizer) == 8
    assert look(write("rows.jsonl", rows), "ppo", tokenizer) == 4
    assert look(write("rows.jsonl", rows), "sft", tokenizer) == 4
