"""The table of optimizer steps and the sentences about a recipe's own."""

from rich.console import Console

from trl_ext.kl_audit import step_report
from trl_ext.rl import step_table
from trl_ext.rl.step_table import Step


def printed(chosen=None):
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(step_report.table(chosen))
    return captured.get()


def test_every_entry_is_the_verdict_and_fits_100_columns():
    text = printed()
    lines = [line for line in text.splitlines() if line.startswith("   ") and line.strip()]
    assert max(map(len, text.splitlines())) <= 100
    for placement in ("reward", "loss"):
        for name, steps in step_table.rows(placement):
            expected = [step_table.SHORT[step_table.judge(step).verdict] for step in steps]
            found = [
                line.split(name, 1)[1].replace("large batch", "large_batch").split()
                for line in lines
                if f" {name} " in line
            ]
            assert [word.replace("large_batch", "large batch") for word in found[placement == "loss"]] == expected


def test_the_entry_of_a_recipe_is_marked_where_it_is_in_the_table():
    marked = [line for line in printed(Step("k3+", "loss", "sequence", "rloo", "sum")).splitlines() if "◀" in line]
    assert len(marked) == 1 and marked[0].split()[:3] == ["rloo", "exact", "◀"]
    assert "◀" in printed(Step(is_whitened=True))  # PPO's default: whitening and the mean over tokens have one verdict
    for other in (Step("k3", "loss", "token"), Step(aggregation="sum", is_whitened=True), Step(advantage="mine")):
        assert "◀" not in printed(other), other


def test_the_sentences_about_a_recipe():
    said = step_report.about(Step("k2", "loss", "sequence", "reinforce_pp_baseline", "token"))
    assert said == [
        "this recipe: k2 in the loss at sequence level, advantage reinforce_pp_baseline, loss aggregation token",
        "The expected gradient of a step is that of the objective with kl_coef·σ·G/(G−1) in place of kl_coef and G completions "
        "per prompt.",
        "  - reinforce_pp_baseline divides rewards by their standard deviation σ over the batch and subtracts a mean that "
        "contains the completion's own reward. The KL is not divided, and σ changes during training.",
        "  - The sum over tokens is divided by the number of tokens of the step, which depends on its completions.",
    ]
    assert step_report.about(Step("k2", "loss", "sequence", "grpo", "token"))[-1] == "Use k1 in the reward."


def test_an_advantage_that_the_table_does_not_know_is_enumerated(monkeypatch):
    monkeypatch.setattr(step_table, "ADVANTAGES", ("gae",))
    said = step_report.about(Step(advantage="opo", aggregation="sum"))
    assert said[1:] == [
        "The advantage opo is not in the table. By enumeration: The expected gradient of a step is not that of E[score] − "
        "kl_coef·KL(π‖ref), but it is zero at the same optimum π*."
    ]


def test_the_json_has_the_table_and_what_enumeration_finds():
    facts = step_report.facts(Step(advantage="grpo"))
    assert len(facts["steps"]) == 2 * 10 * 4
    assert facts["step"]["verdict"] == facts["step"]["enumerated"]["verdict"] == step_table.SAME_OPTIMUM
    assert 0 < facts["step"]["enumerated"]["cosine"] < 1
    assert "step" not in step_report.facts(None)
