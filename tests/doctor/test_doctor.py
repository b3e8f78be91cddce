"""All checks together, and how they are shown."""

import json

from trl_ext import cli, doctor
from trl_ext.doctor.finding import Finding, passed


def test_a_check_that_breaks_hides_no_other(monkeypatch, computer):
    def broken():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor.gpu, "gpu", broken)
    findings = list(doctor.examine())
    by_check = {finding.check: finding for finding in findings}
    assert by_check["GPU"].found == "could not be checked (OSError: libcudart.so.12: cannot open shared object file)"
    assert by_check["GPU"].remedy.startswith("Fix the error it names")
    assert {"Python", "packages", "bitsandbytes", "attention", "disk", "RAM"} <= by_check.keys()


def test_a_torch_that_cannot_be_imported_leaves_the_rest(monkeypatch):
    monkeypatch.setattr(
        doctor, "imports_torch", lambda: iter([Finding("torch", doctor.Status.FAIL, "broken", "reinstall")])
    )
    checks = [finding.check for finding in doctor.examine()]
    assert "torch" in checks and "disk" in checks and "RAM" in checks and "bitsandbytes" not in checks


def test_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = [passed("Python", "3.11"), Finding("GPU", doctor.Status.WARN, "none", "get one")]
    monkeypatch.setattr(doctor, "examine", lambda path, values: iter(found))
    assert cli.main(["doctor"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "✓ Python        3.11",
        "! GPU           none",
        "                → get one",
        "Ready, with 1 warning.",
    ]
    found.append(Finding("disk", doctor.Status.FAIL, "full", "free some"))
    assert cli.main(["doctor", "r.yaml", "--json"]) == 2
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] is False
    assert read["findings"][2] == {"check": "disk", "status": "fail", "found": "full", "remedy": "free some"}
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().out.endswith("1 problem to solve, 1 warning.\n")
    assert cli.main(["doctor", "--beta", "1"]) == 2


def test_every_warning_and_failure_has_a_remedy(said_of):
    for finding in said_of("Qwen/Qwen3-8B", "bf16: maybe\n").values():
        assert bool(finding.remedy) == (finding.status != "pass")
