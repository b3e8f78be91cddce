"""`trl-ext advantages`: the list, one advantage, JSON, and unknown names."""

import json

import pytest
from rich.cells import cell_len

from trl_ext import cli
from trl_ext.rl import advantages
from trl_ext.support.messages import plain


@pytest.mark.parametrize("columns", ["80", "30"])
def test_the_list_cuts_nothing(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["advantages"]) == 0
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80 and "…" not in printed
    for name in advantages.available():
        assert name in printed and advantages.describe(name).paper.removeprefix("arXiv:") in printed


def test_in_a_wide_terminal_each_has_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    assert cli.main(["advantages"]) == 0
    lines = capsys.readouterr().out.splitlines()
    needs = {"gae": "critic", "rloo": "groups", "remax": "greedy", "reinforce_pp": "none"}
    for name in advantages.available():
        info = advantages.describe(name)
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert info.formula in line and all(key in line for key in info.hyperparameters)
        assert needs.get(name, "groups") == line.split()[-2]


def test_json(capsys):
    assert cli.main(["advantages", "--json"]) == 0
    read = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert tuple(read) == advantages.available()
    assert read["gae"]["needs_critic"] is True and read["gae"]["hyperparameters"] == {"gamma": 1.0, "lam": 0.95}
    assert read["rloo"]["needs_groups"] is True and read["remax"]["needs_greedy"] is True
    assert read["rloo"]["importance_sampling_level"] == advantages.describe("rloo").level
    assert read["reinforce_pp"]["whitens"] is True and read["rloo"]["inputs"] == ["rewards", "mask", "groups"]


@pytest.mark.parametrize("name", advantages.available())
def test_one(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["advantages", name]) == 0
    printed, info = capsys.readouterr().out, advantages.describe(name)
    for part in (info.summary, info.formula, *(advantages.TENSORS[tensor] for tensor in info.inputs)):
        assert part in printed
    assert f"https://arxiv.org/abs/{info.paper.removeprefix('arXiv:')}" in printed and "Args:" not in printed
    assert f"`loss_aggregation: {info.aggregation}`" in printed
    assert ("a second adapter with a scalar head is trained" in printed) == info.needs_critic
    assert ("at least two per prompt" in printed) == info.needs_groups
    for key, default in info.hyperparameters.items():
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [key]]
        assert plain(default) in line and cli.advantages.MEANINGS[key] in line


def test_one_as_json(capsys):
    assert cli.main(["advantages", "GRPO", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "grpo" and found["allowed"]["scale_rewards"] == "one of 'group', 'batch', 'none'"
    assert found["description"].startswith("(R_i − mean R)") and "R = Σ_t r_t" in found["notation"]


def test_an_unknown_name(capsys):
    assert cli.main(["advantages", "gppo"]) == 2
    caught = capsys.readouterr()
    assert "There is no advantage 'gppo'. Did you mean grpo? Advantages: dr_grpo, gae" in caught.err and not caught.out
