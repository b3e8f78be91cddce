"""Whatever a recipe holds, `validate` and `plan` answer in sentences: exit code 0 or 2, never a traceback."""

import io
import itertools
import sys

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trl_ext import cli, foreign, losses
from trl_ext.methods import METHODS, TRAINERS
from trl_ext.planner.models import MODELS
from trl_ext.recipe import known_keys

KEYS = sorted({key for kind in METHODS for key in known_keys(kind)})
OLD_KEYS = sorted({key for dialect in foreign.DIALECTS for key in dialect.means})
ENOUGH = {"model_name_or_path": "embedded", "dataset_name": "embedded"}

AS_ALWAYS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""The same examples in every run."""

odd_text = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec=None, categories=["Cs", "So", "Cc", "Nd"]), max_size=4),
    st.sampled_from(
        [
            "",
            " ",
            "~",
            "~x",
            "./x",
            "/",
            "..",
            "\0",
            "😀",
            "\ud800",
            "a\nb",
            "5e-6",
            "auto",
            "no",
            "[",
            "(",
            "x" * 5000,
        ]
    ),
    st.sampled_from(
        ["lm_head", "all-linear", "embedded", "checkpoint-1", "ipo", "kto", "org/name", "r.yaml:f", "a:b:c"]
    ),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -(10**30), 2**63, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"), -0.0]),
    st.floats(),
    st.dates(),
    st.binary(max_size=4),
    odd_text,
)
numbers = st.one_of(
    st.integers(1, 4096), st.floats(0, 1), st.sampled_from([0, -1, 1e-300, 1e30, 10**30, 10**400, 1.5, 2**31])
)
names = st.one_of(st.sampled_from(KEYS), st.sampled_from(OLD_KEYS), st.sampled_from(losses.available()), odd_text)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(names, st.integers(), st.none(), st.booleans()), inner, max_size=3),
    ),
    max_leaves=6,
)
recipes = st.dictionaries(st.one_of(names, scalars.filter(lambda key: key == key)), values, max_size=6)


@st.composite
def nearly_sound(draw, models=("embedded",)):
    """A recipe whose values have the type of their setting and are otherwise anything, and its special keys filled."""
    kind = draw(st.sampled_from(sorted(METHODS)))
    trainer = {"trainer": kind} if kind in TRAINERS else {}
    fields = known_keys(kind)
    found = {"model_name_or_path": draw(st.sampled_from(models)), "dataset_name": "embedded"} | trainer
    for key in draw(st.lists(st.sampled_from(sorted(fields)), max_size=5)):
        if key != "model_name_or_path":
            found[key] = draw(_of(fields[key]))
    if not trainer:
        several = st.dictionaries(st.sampled_from(losses.available()), st.one_of(numbers, scalars), max_size=3)
        found |= draw(
            st.fixed_dictionaries({}, optional={"loss": st.one_of(st.sampled_from(losses.available()), several)})
        )
        found |= draw(
            st.fixed_dictionaries({}, optional={"variants": several, "loss_kwargs": st.one_of(several, values)})
        )
    entries = st.one_of(
        values, st.dictionaries(st.sampled_from(["path", "name", "split", "fraction"]), scalars, max_size=4)
    )
    return found | draw(st.fixed_dictionaries({}, optional={"datasets": st.lists(entries, max_size=3)}))


def _of(field):
    if field is None:
        return values
    if field.choices:
        return st.one_of(st.sampled_from(field.choices), odd_text)
    by_kind = {
        "bool": st.booleans(),
        "int": numbers.map(lambda number: int(number)),
        "float": numbers,
        "str": odd_text,
        "list": st.lists(st.one_of(odd_text, numbers), max_size=3),
        "dict": st.dictionaries(odd_text, values, max_size=2),
        "None": st.none(),
        "Any": values,
    }
    return st.one_of(*(by_kind[kind] for kind in sorted(field.kinds)))


yaml_pieces = st.lists(
    st.one_of(
        st.sampled_from(
            ["&a ", "*a", "<<: ", "<<: *a\n", "? ", "!!python/object:os.system ", "!!set ", "!!binary ", "!!int "]
        ),
        st.sampled_from(
            [
                "!x ",
                "--- ",
                "...\n",
                "%YAML 9\n",
                "{",
                "}",
                "[",
                "]",
                ",",
                ": ",
                "\n",
                "  ",
                "\t",
                "- ",
                "|\n",
                ">",
                "#",
            ]
        ),
        st.sampled_from(
            ["beta", "loss", "variants", "x", "1", "0x1F", "1:30", ".inf", '"\\ud800"', "'", '"', "\ufeff", "\x85"]
        ),
    ),
    max_size=14,
).map("".join)


counts = st.one_of(st.integers(1, 10**6), st.sampled_from([1, 2, 2**31, 10**18, 10**30]))
targets = st.sampled_from(["q_proj", "down_proj", "nowhere", ".*", "(", "all-linear"])
SIZES = {
    "load_in_4bit": st.booleans(),
    "load_in_8bit": st.booleans(),
    "use_bnb_nested_quant": st.booleans(),
    "use_peft": st.booleans(),
    "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    "lora_r": counts,
    "lora_dtype": st.sampled_from(["float32", "bfloat16"]),
    "fused_kernels": st.sampled_from(["auto", "none"]),
    "lora_target_modules": st.one_of(st.lists(targets, max_size=3), targets, odd_text),
    "optim": st.sampled_from(["adamw_torch", "paged_adamw_8bit", "sgd", "lion_8bit", "adafactor"]),
    "attn_implementation": st.sampled_from(["eager", "sdpa", "flash_attention_2", "x"]),
    "max_length": st.one_of(counts, st.none()),
    "max_completion_length": counts,
    "row_tokens": st.one_of(counts, st.just("auto")),
    "packing": st.booleans(),
    "gradient_checkpointing": st.one_of(st.booleans(), st.just("auto")),
    "per_device_train_batch_size": counts,
    "gradient_accumulation_steps": counts,
    "num_generations": counts,
    "sync_ref_model": st.booleans(),
    "max_train_samples": counts,
    "model_revision": st.sampled_from(["main", "v1", ""]),
}
"""What a plan depends on, up to sizes nobody has."""


@st.composite
def plannable(draw):
    found = {"model_name_or_path": draw(st.sampled_from(["embedded", *MODELS])), "dataset_name": "embedded"}
    found["use_peft"] = True
    if draw(st.booleans()):
        found["loss"] = draw(st.sampled_from(losses.available()))
    else:
        method = TRAINERS[draw(st.sampled_from(sorted(TRAINERS)))]
        found |= {"trainer": method.name} | ({"reward_funcs": ["sentiment"]} if method.samples_completions else {})
    for key in draw(st.lists(st.sampled_from(sorted(SIZES)), max_size=6, unique=True)):
        found[key] = draw(SIZES[key])
    return found


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(words: list[str], content: bytes) -> tuple[int, str]:
    """Exit code and what is printed to stderr; both streams encode as a process's own do."""
    with open("r.yaml", "wb") as file:
        file.write(content)
    streams = sys.stdout, sys.stderr
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    try:
        code = cli.main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        return code, sys.stderr.buffer.getvalue().decode()
    finally:
        sys.stdout, sys.stderr = streams


def examine(words: list[str], content: bytes) -> None:
    """Exit code 0 and nothing on stderr, or 2 and a line for each problem."""
    code, said = answer(words, content)
    assert code in (0, 2)
    lines = said.splitlines()
    if code == 0:
        assert not lines
    elif len(lines) > 1:
        if lines[-1].startswith("`trl-ext convert "):
            lines.pop()
        count = int(lines[0].removeprefix("trl-ext: ").split()[0])
        assert [line.split(".")[0].strip() for line in lines[1:]] == [str(i) for i in range(1, count + 1)], said
    else:
        assert said.startswith("trl-ext: ")


def written(recipe: dict) -> bytes:
    return yaml.dump(recipe, allow_unicode=True, sort_keys=False).encode("utf-8", errors="backslashreplace")


@settings(AS_ALWAYS, max_examples=250)
@given(recipes, st.booleans())
def test_any_mapping_is_validated_in_sentences(recipe, is_complete):
    examine(["validate", "r.yaml"], written(ENOUGH | recipe if is_complete else recipe))


@settings(AS_ALWAYS, max_examples=250)
@given(nearly_sound())
def test_any_values_of_the_right_type_are_validated_in_sentences(recipe):
    examine(["validate", "r.yaml"], written(recipe))


@settings(AS_ALWAYS, max_examples=250)
@example("x: &a [*a]", True)  # holds itself
@example("x: &a {b: *a}", True)
@example("<<: &a {beta: 1}\n<<: *a", True)
@example("x: " + "[" * 5000, True)
@example(
    "a: &a [x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in itertools.pairwise("abcdefghijkl")), True
)
@example("run_name: 0x_\n", True)
@example('output_dir: "\\0"\n', True)
@example('run_name: "\\ud83d"\n', True)
@example('"\\ud83d": 1\n', True)
@example("[beta, 0.1]: 1\n", True)
@example("no: 1\nnull: 2\n5e-6: 3\n", True)
@example("--- \na: 1\n---\nb: 2\n", False)
@example("!!python/object/apply:os.system ['true']", False)
@given(yaml_pieces, st.booleans())
def test_any_text_is_validated_in_sentences(text, is_complete):
    examine(["validate", "r.yaml"], (written(ENOUGH) if is_complete else b"") + text.encode("utf-8"))


@settings(AS_ALWAYS, max_examples=50)
@example(b"\xff\xfe\x00")
@example(b"\x89PNG\r\n\x1a\n")
@given(st.binary(max_size=30))
def test_any_bytes_are_validated_in_sentences(content):
    examine(["validate", "r.yaml"], content)


@settings(AS_ALWAYS, max_examples=200)
@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), odd_text), st.lists(odd_text, max_size=2), max_size=4))
def test_any_flags_are_validated_in_sentences(flags):
    words = [word for key, values in flags.items() for word in (f"--{key}", *values)]
    examine(["validate", "r.yaml", *words], written(ENOUGH))


@settings(AS_ALWAYS, max_examples=40)
@given(plannable())
def test_any_size_is_planned_or_refused_in_a_sentence(recipe):
    examine(["plan", "r.yaml"], written(recipe))
