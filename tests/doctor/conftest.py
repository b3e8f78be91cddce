"""Fakes of a computer at the doctor's seams, and recipes for it to look at."""

import json
import shutil
from pathlib import Path

import pytest

from tests.doctor.helpers import CPUS, RECIPE
from trl_ext import demo, doctor
from trl_ext.doctor import gpu, kernels
from trl_ext.doctor.finding import Finding, passed


@pytest.fixture
def computer(monkeypatch):
    """Fakes the facts the checks go by; there is no card unless one is given."""

    def fake(made=CPUS, card=None, driver=None, named=(), other=None, amd=False, holders=(), count=1):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        facts = {
            "build": made,
            "card": card,
            "cards": count,
            "driver_cuda": driver,
            "other_accelerator": other,
            "has_amd_card": amd,
            "holders": list(holders),
        }
        for name, value in facts.items():
            monkeypatch.setattr(gpu, name, lambda value=value: value)
        monkeypatch.setattr(gpu, "nvidia_smi", lambda *query: [[name] for name in named])

    return fake


@pytest.fixture
def said_of(tmp_path, monkeypatch):
    """What the doctor says of a recipe, by what it looked at, without trying kernels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "bitsandbytes", lambda device: iter([passed("bitsandbytes", "works")]))

    def examine(model: str = "embedded", more: str = "", dataset: str = "embedded") -> dict[str, Finding]:
        Path("r.yaml").write_text(RECIPE.format(model=model, more=more, dataset=dataset))
        return {finding.check: finding for finding in doctor.examine("r.yaml")}

    return examine


@pytest.fixture
def changed_model(tmp_path):
    """A copy of the embedded model with entries of a JSON file changed."""

    def change(file: str, **entries) -> str:
        folder = shutil.copytree(demo.MODEL, tmp_path / "changed", dirs_exist_ok=True)
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | entries))
        return "changed"

    return change
