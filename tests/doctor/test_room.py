"""Disks and memory, faked."""

from types import SimpleNamespace

import pytest

from tests.doctor.helpers import GIB, only
from trl_ext.doctor import room


def test_disks(monkeypatch, tmp_path):
    def places(needs, may_take):
        return [
            room.Place("runs", tmp_path / "a" / "b", needs, 0.0, "--output_dir"),
            room.Place("the reference cache", tmp_path, 0.0, may_take, "TRL_EXT_CACHE"),
        ]

    monkeypatch.setattr(room, "free_bytes", lambda path: 5 * GIB)
    assert only(room.disks(places(1, 3))) == ("pass", "5.0 GiB free for runs and the reference cache", "")
    status, found, remedy = only(room.disks(places(1, 10)))
    assert status == "warn" and found.endswith("they may grow to 11.0 GiB")
    assert remedy == "Free some space, or move the reference cache to another disk (TRL_EXT_CACHE)."
    status, found, remedy = only(room.disks(places(16, 10)))
    assert status == "fail" and found.endswith("they need 16.0 GiB")
    assert remedy == "Free some space, or move runs to another disk (--output_dir)."
    monkeypatch.setattr(room, "is_writable", lambda path: False)
    first, second = room.disks(places(1, 1))
    assert first.found == f"runs: {tmp_path} cannot be written to"
    assert first.remedy == "Choose another folder with --output_dir." and second.status == "fail"
    (tmp_path / "file").touch()
    found = only(room.disks([room.Place("runs", tmp_path / "file" / "x", 1, 0, "--output_dir")]))
    assert found[1] == f"runs: {tmp_path / 'file'} is a file, not a folder"


def test_what_checkpoints_take():
    asked = SimpleNamespace(effective={"save_strategy": "steps", "save_total_limit": 2}.get)
    # An adapter of 0.25 GiB of float32, and twice that with two moments.
    assert room.checkpoints(asked, SimpleNamespace(trained=GIB // 16)) == pytest.approx(0.25 * (1 + 3 * 2))
    never = SimpleNamespace(effective={"save_strategy": "no"}.get)
    assert room.checkpoints(never, SimpleNamespace(trained=GIB // 16)) == pytest.approx(0.25)


def test_memory_of_the_computer(monkeypatch):
    for free, status, remedy in [
        (8, "pass", ""),
        (3, "warn", "loading a model of 7 billion"),
        (0.5, "fail", "Close other programs"),
    ]:
        monkeypatch.setattr(room, "ram", lambda free=free: (int(free * GIB), 16 * GIB))
        said = only(room.memory())
        assert said[0] == status and said[1] == f"{free:.1f} of 16.0 GiB free" and remedy in said[2]


def test_the_limit_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(room, "container_limit", lambda: 2 * GIB)
    free, total = room.ram()
    assert total == 2 * GIB and free < total
    monkeypatch.setattr(room, "container_limit", lambda: None)
    assert room.ram()[1] > 0
