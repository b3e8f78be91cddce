"""A compressed file is read as the plain file is: when a recipe is validated, when data is loaded, streamed, in folders."""

import gzip
import importlib.util
import subprocess
import sys

import pytest
import zstandard

from tests.data.conftest import COMPRESS, spelled
from tests.data.rows import PLAIN
from trl_ext import data
from trl_ext.cli import main
from trl_ext.data.files import compression, names
from trl_ext.data.files.first_rows import first_rows
from trl_ext.data.files.problems import extent, find_problem
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError

ENDINGS = [f"{kind}{ending}" for kind in names.TEXT for ending in names.COMPRESSIONS]
MANY = [
    {"prompt": f"Which number is {i}?", "chosen": f"It is {i * i % 977}.", "rejected": "None."} for i in range(2000)
]
PARTS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}


def test_every_compression_is_known_to_every_table():
    assert set(names.COMPRESSIONS) == set(compression.FORMATS) == set(COMPRESS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_those_of_the_plain_file(ending, write):
    path, plain = write(f"p{ending}", PLAIN), write(f"p{names.kind('p' + ending)}", PLAIN)
    assert data.load(path).dataset.to_list() == data.load(plain).dataset.to_list() == PLAIN
    assert list(data.load(path, streaming=True).dataset) == PLAIN
    assert first_rows(path) == first_rows(plain) == PLAIN
    assert recognise_file(path) == recognise_file(plain)
    assert find_problem(path) is None and extent(path) == extent(plain) == "all of it read"


@pytest.mark.parametrize("ending", [".json.bz2", ".csv.gz", ".tsv.xz"])
def test_upper_case_endings(ending, write):
    path = write(f"p{ending}", PLAIN)
    path = path.rename(path.with_name(path.name.upper()))
    assert data.load(path).dataset.to_list() == PLAIN and recognise_file(path).paired


@pytest.mark.parametrize("ending", names.COMPRESSIONS)
@pytest.mark.parametrize("streaming", [False, True])
def test_folders(ending, streaming, write, tmp_path):
    for part in ("a", "b"):
        write(f"set/train_{part}.jsonl{ending}", PLAIN)
    assert list(data.load(tmp_path / "set", streaming=streaming).dataset) == [*PLAIN, *PLAIN]


def test_frames_and_streams_that_follow_one_another_are_all_read(tmp_path):
    text = spelled(".jsonl", PLAIN).encode()
    for ending, compress in COMPRESS.items():
        path = tmp_path / f"p.jsonl{ending}"
        path.write_bytes(compress(text) + compress(text))
        with compression.open_bytes(path) as file:
            assert file.read() == text + text
        assert data.load(path).dataset.to_list() == [*PLAIN, *PLAIN]


# Damaged files.


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_file_is_refused_everywhere(ending, write):
    """Of a truncated .csv.zst, `datasets` would read the rows that are left without an error."""
    path = write(f"p{ending}", MANY)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    sentence = "it is truncated. Copy or download the file again."
    assert find_problem(path) == sentence
    for streaming in (False, True):
        with pytest.raises(UserError, match=rf"^{path.name} cannot be read: {sentence}$"):
            list(data.load(path, streaming=streaming).dataset)


@pytest.mark.parametrize("ending", names.COMPRESSIONS)
def test_a_truncated_file_in_a_folder_is_named(ending, write, tmp_path):
    write(f"set/a.csv{ending}", MANY)
    path = write(f"set/b.csv{ending}", MANY)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"b\.csv{ending} cannot be read: it is truncated"):
        data.load(tmp_path / "set")


@pytest.mark.parametrize("ending", names.COMPRESSIONS)
def test_damaged_data(ending, write):
    path = write(f"p.jsonl{ending}", MANY)
    raw = path.read_bytes()
    if ending == ".zst":  # with a checksum, as the command `zstd` writes it
        raw = zstandard.ZstdCompressor(write_checksum=True).compress(spelled(".jsonl", MANY).encode())
    path.write_bytes(raw[:500] + bytes(byte ^ 0x55 for byte in raw[500:600]) + raw[600:])
    for problem in (find_problem(path), compression.truncated_zstd(path) or find_problem(path)):
        assert f"its {PARTS[ending[1:]]} data is damaged (" in problem
    with pytest.raises(UserError, match=r"data is damaged .* Copy or download the file again"):
        data.load(path)


# Names that say something else than the file.


@pytest.mark.parametrize("kind", names.TEXT)
@pytest.mark.parametrize("ending", names.COMPRESSIONS)
def test_a_compressed_file_under_a_plain_name(kind, ending, write):
    path = write(f"p{kind}{ending}", PLAIN)
    path = path.rename(path.with_suffix(""))
    problem = f"it is compressed with {PARTS[ending[1:]]}, but its name does not end in {ending}. Rename it to p{kind}{ending}."
    assert find_problem(path) == problem and recognise_file(path) is None
    for streaming in (False, True):
        with pytest.raises(UserError) as error:
            data.load(path, streaming=streaming)
        assert str(error.value) == f"p{kind} cannot be read: {problem}"


@pytest.mark.parametrize("ending", names.COMPRESSIONS)
def test_a_plain_file_under_a_compressed_name(ending, write):
    path = write("p.jsonl", PLAIN)
    path = path.rename(path.with_name(f"p.jsonl{ending}"))
    problem = f"it is not a {PARTS[ending[1:]]} file. If it is not compressed, rename it to p.jsonl."
    assert find_problem(path) == problem
    with pytest.raises(UserError, match=r"If it is not compressed, rename it to p\.jsonl"):
        data.load(path)


def test_another_compression_than_the_name_says(write):
    path = write("p.csv.xz", PLAIN)
    path = path.rename(path.with_name("p.csv.gz"))
    problem = "it is compressed with xz, but its name does not end in .xz. Rename it to p.csv.xz."
    assert find_problem(path) == problem


def test_files_that_compress_themselves(tmp_path):
    path = tmp_path / "p.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(
        UserError, match=r"p\.parquet\.gz is not a kind of file .* Allowed are \.json, .*may also be compressed"
    ):
        data.load(path)


def test_zstandard_is_asked_for_where_it_is_missing(write, tmp_path, monkeypatch):
    path = write("set/p.jsonl.zst", PLAIN)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "zstandard" else found(name))
    problem = "`.zst` files need a package that is not installed. Install it with `pip install zstandard`."
    assert find_problem(path) == problem
    for place in (path, tmp_path / "set"):
        with pytest.raises(
            UserError, match=r"p\.jsonl\.zst cannot be read: `\.zst` files need .* `pip install zstandard`\.$"
        ):
            data.load(place)


# The command line.


@pytest.fixture
def recipe(tmp_path):
    def _recipe(path):
        file = tmp_path / "r.yaml"
        file.write_text(f"model_name_or_path: embedded\ndataset_name: {path}\nuse_peft: true\n")
        return str(file)

    return _recipe


@pytest.mark.parametrize("ending", ENDINGS)
def test_validate(ending, write, recipe, capsys):
    path = write(f"p{ending}", MANY)
    assert main(["validate", recipe(path)]) == 0
    assert f"p{ending} [train], all of it read, TRL's own columns, pairs" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-1000])
    assert main(["validate", recipe(path)]) == 2
    assert f"p{ending}, which cannot be read: it is truncated" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("ending", ["json.bz2", "csv.zst"])
def test_a_missing_file_is_no_name_on_the_hub(ending, recipe, capsys):
    assert main(["validate", recipe(f"org/pears.{ending}")]) == 2
    assert "there is no folder org" in " ".join(capsys.readouterr().err.split())


def test_validate_imports_nothing_heavy(write, recipe):
    path = write("p.json.zst", [{"prompt": "p", "completion": "c", "label": True}] * 3)
    code = (
        "import sys; from trl_ext.cli import main; code = main(['validate', sys.argv[1], '--loss', 'dpo']); "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pandas'} & set(sys.modules); print(code, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code, recipe(path)], capture_output=True, text=True)
    assert run.stdout.strip() == "2 []" and "--loss kto" in run.stderr
