"""Versions against the requirements of the installed distribution."""

from tests.doctor.helpers import only
from trl_ext.doctor import packages


def test_packages_are_held_against_the_distributions_own_requirements(monkeypatch):
    monkeypatch.setattr(
        packages, "declared", lambda: (">=3.11", ["torch<2.14,>=2.10", "trl<1.17,>=1.16", "peft", 'x; extra == "dev"'])
    )
    there = {"torch": "2.13.1.dev20260101+cu130", "trl": "1.17.0"}
    monkeypatch.setattr(packages, "installed", there.get)
    python, good, *wrong = packages.python_and_packages()
    assert python.status == "pass" and good.found.startswith("torch 2.13.1.dev20260101+cu130")
    assert [(finding.check, str(finding.status), finding.found, finding.remedy) for finding in wrong] == [
        ("trl", "fail", "1.17.0, but trl-ext is tested with <1.17,>=1.16", "Run pip install 'trl<1.17,>=1.16'"),
        ("peft", "fail", "not installed", "Run pip install 'peft'"),
    ]


def test_python_and_trl_ext_itself(monkeypatch):
    monkeypatch.setattr(packages, "declared", lambda: (">=3.99", []))
    first = next(packages.python_and_packages())
    assert first.status == "fail" and first.found.endswith("but >=3.99 is required")
    assert first.remedy == "Create an environment with another Python."
    monkeypatch.setattr(packages, "declared", lambda: None)
    assert only(packages.python_and_packages()) == (
        "fail",
        "not installed in this environment",
        "Run pip install -e . in its folder.",
    )


def test_the_requirements_are_those_of_this_distribution():
    python, requirements = packages.declared()
    assert python.startswith(">=3") and any(requirement.startswith("torch") for requirement in requirements)
