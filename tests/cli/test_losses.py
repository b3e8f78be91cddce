"""`trl-ext losses`: the list, and the page of one loss."""

import json
import math

import pytest
from rich.cells import cell_len

from trl_ext import cli, losses
from trl_ext.support.messages import plain


def test_losses_fits_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["losses"]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80
    for name in losses.available():
        info = losses.describe(name)
        assert name in printed and info.paper.removeprefix("arXiv:") in printed
        assert all(alias in printed for alias in info.aliases)


def test_losses_cut_nothing_however_narrow_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert cli.main(["losses"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed and all(losses.describe(name).paper[-10:] in printed for name in losses.available())


def test_losses_in_a_wide_terminal_have_one_line_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    assert cli.main(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in losses.available():
        info = losses.describe(name)
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert info.formula in line and all(key in line for key in info.hyperparameters)


def test_losses_as_json(capsys):
    assert cli.main(["losses", "--json"]) == 0
    read = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert tuple(read) == losses.available()
    assert read["dpo"]["needs_reference"] is True and read["dpo"]["hyperparameters"]["beta"] == 0.1
    assert read["simpo"]["needs_reference"] is False and read["kto"]["data"] == "single"


@pytest.mark.parametrize("name", losses.available())
def test_one_loss(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["losses", name]) == 0
    printed = capsys.readouterr().out
    info, value = losses.describe(name), losses.get(name).initial_value
    for part in (info.summary, info.formula, info.reduction, info.beta_unit, *info.inputs, *info.aliases):
        assert part in printed
    assert f"https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')}" in printed
    assert "it depends on the data" in printed if value is None else f"{value:.4g} with the defaults" in printed
    for key, default in info.hyperparameters.items():
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [key]]
        assert plain("none" if default is None else default) in line and cli.losses.MEANINGS[key] in line


def test_one_loss_as_json(capsys):
    assert cli.main(["losses", "sigmoid", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "dpo" and found["initial_value"] == pytest.approx(math.log(2))
    assert found["hyperparameters"]["beta"] == 0.1 and found["allowed"]["beta"] == "a number greater than 0"
