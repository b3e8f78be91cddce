"""Tiny models and data shared by the tests; everything runs offline on a CPU."""

import atexit
import os
import shutil
import signal
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", CI="1")
os.environ["COLUMNS"] = "80"  # tables are cut to the width of a terminal
# Caches, and what libraries leave in the folder for temporary files, go when the tests end; the user's stay as they are.
TEMPORARY = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # and `tmp_path` is there as ever
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="trl-ext-", dir=TEMPORARY)
atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
for name in ("TRL_EXT_CACHE", "HF_HOME", "MPLCONFIGDIR", "HYPOTHESIS_STORAGE_DIRECTORY"):
    os.environ[name] = os.path.join(tempfile.tempdir, name)
for name in ("HF_DATASETS_CACHE", "FORCE_COLOR"):
    os.environ.pop(name, None)
# Matrices this small are slower on two threads than on one, and the tests may run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Shells ignore Ctrl-C in background jobs, and a program that inherits this does, too. Tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import gc  # noqa: E402
import random  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

WORDS = (
    "the a of to and in is that it for you was on are with as be this have from or one had by word but not what "
    "all were we when your can said there use an each which she do how their if will up other about out many"
).split()


def sentence(rng: random.Random, shortest: int, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(shortest, longest)))


def pairs(count: int, seed: int = 0, longest: int = 12) -> list[dict]:
    """Plain-text preference pairs of unequal lengths; prompts are unique."""
    rng = random.Random(seed)
    return [
        {
            "prompt": f"{sentence(rng, 2, longest)} {i}",
            "chosen": " " + sentence(rng, 1, longest),
            "rejected": " " + sentence(rng, 1, longest),
        }
        for i in range(count)
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker still runs one when the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def imported_objects_are_no_garbage() -> None:
    """Half a million objects of imported libraries are left out of garbage collection: every training run asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def pictures_are_not_laid_out(request: pytest.FixtureRequest) -> Iterator[None]:
    """Placing the parts of its pictures is a third of the time of a short run, and only tests of pictures look at it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name not in ("report", "docs"):
            patch.setattr("matplotlib.figure.Figure.get_layout_engine", lambda figure: None)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Directory of a two-layer Llama with a word tokenizer; large enough logits that losses are not degenerate."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny-model")
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "<s>", "</s>", *map(str, range(100)), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_tokens(["</s>"], special_tokens=True)
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> str:
    """Directory of a two-layer Llava, with its processor."""
    from tests.trainers.preference.images import save_tiny_vlm

    directory = str(tmp_path_factory.mktemp("tiny-vlm"))
    save_tiny_vlm(directory)
    return directory


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real preference data named by TRL_EXT_DATA; tests that need it are skipped elsewhere."""
    folder = os.environ.get("TRL_EXT_DATA")
    if not folder or not Path(folder, "hh_harmless_test.jsonl.gz").exists():
        pytest.skip("set TRL_EXT_DATA to a folder with hh_harmless_test.jsonl.gz to run this on real data")
    return Path(folder)
