"""Data and cached reference values that hold a pickle are refused or computed again; foreign code is announced.

Checkpoints are in `tests/trainers/preference/test_resume.py` and `tests/trainers/ppo/test_resume.py`.
"""

import json
import pickle

import numpy as np
import pytest
import torch

from tests.trainers.helpers import Payload
from trl_ext import data, recipe
from trl_ext.reference.cache import ReferenceCache
from trl_ext.support.errors import UserError

ROWS = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pickle", "rows.pt", "rows.npy", "rows.parquet", "rows.arrow"])
def test_a_pickle_is_no_dataset(tmp_path, name):
    content = Payload(tmp_path / "ran")
    if name.endswith(".pt"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(UserError):
        data.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_among_readable_files_is_left_alone(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for i in range(5):  # more of them than of what can be read
        (folder / f"more-{i}.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert len(data.load(folder).dataset) == 3
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_the_reference_cache_is_computed_again(tmp_path):
    cache = ReferenceCache("0" * 32, directory=tmp_path / "cache", limit_bytes=2**20, about="")
    key = cache.key([1, 2], [3, 4])
    cache.put([key], [np.array([-1.0, -2.0], dtype=np.float32)])
    cache.flush()
    (shard,) = (path for path in (tmp_path / "cache").rglob("*.ref1"))
    shard.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert ReferenceCache("0" * 32, directory=tmp_path / "cache", limit_bytes=2**20, about="").get([key]) == [None]
    assert not (tmp_path / "ran").exists()


def test_remote_code_is_off_by_default_and_said_when_on(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model_name_or_path: embedded\ndataset_name: embedded\n")
    assert not recipe.load(path).effective("trust_remote_code")
    assert not any("trust_remote_code" in note for note in recipe.load(path).notes)
    (note,) = [n for n in recipe.load(path, {"trust_remote_code": True}).notes if "trust_remote_code" in n]
    assert "Python code that comes with embedded runs on this computer" in note
