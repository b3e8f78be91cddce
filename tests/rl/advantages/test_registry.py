"""Declarations of advantages, read without torch, and a file that is added to the package."""

import pickle
import subprocess
import sys

import pytest
import torch

from trl_ext.rl import advantages

NEEDS = {
    "gae": (True, False, False),
    "rloo": (False, True, False),
    "grpo": (False, True, False),
    "dr_grpo": (False, True, False),
    "opo": (False, True, False),
    "reinforce_pp": (False, False, False),
    "reinforce_pp_baseline": (False, True, False),
    "remax": (False, False, True),
}

NEW = '''"""Plain REINFORCE."""

from torch import Tensor

FORMULA = "R"
PAPER = "arXiv:0000.00000"


def plain(rewards: Tensor, mask: Tensor, *, shift: float = 0.0) -> Tensor:
    """The rewards themselves."""
    return rewards + shift
'''


@pytest.fixture
def extended(tmp_path, monkeypatch):
    monkeypatch.setattr(advantages, "__path__", [*advantages.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("trl_ext.rl.advantages.plain", None)
    vars(advantages).pop("plain", None)


def test_the_signature_says_what_is_needed():
    found = {}
    for name in advantages.available():
        info = advantages.describe(name)
        found[name] = info.needs_critic, info.needs_groups, info.needs_greedy
    assert found == NEEDS
    info = advantages.describe("gae")
    assert info.inputs == ("rewards", "values", "mask") and info.hyperparameters == {"gamma": 1.0, "lam": 0.95}
    assert advantages.describe("grpo").hyperparameters == {"scale_rewards": "group"}


def test_hyperparameters_are_checked():
    info = advantages.describe("grpo")
    assert info.check({"scale_rewards": "batch"}) == []
    assert info.check({"scale_rewards": "std"}) == [
        "grpo: scale_rewards must be one of 'group', 'batch', 'none', not 'std'."
    ]
    assert info.check({"lam": 1.0}) == ["grpo does not read 'lam'; it reads scale_rewards. 'lam' belongs to gae."]
    assert advantages.describe("rloo").check({"lam": 1})[0].startswith("rloo does not read 'lam'; it reads no hyperp")
    assert "Did you mean 'gamma'?" in advantages.describe("gae").check({"gama": 1})[0]
    assert advantages.describe("gae").check({"gamma": 1.5}) == ["gae: gamma must be a number from 0 to 1, not 1.5."]


def test_unknown_names():
    with pytest.raises(
        ValueError, match=r"There is no advantage 'gppo'\. Did you mean grpo\? Advantages: dr_grpo, gae"
    ):
        advantages.describe("gppo")
    with pytest.raises(AttributeError, match="has no attribute 'gppo'"):
        _ = advantages.gppo


def test_a_name_means_the_function_however_it_is_imported():
    """Also after `import trl_ext.rl.advantages.rloo`, by which Python binds the module to the name."""
    code = (
        "import sys\n"
        "from trl_ext.rl import advantages\n"
        "assert len(advantages.available()) > 5 and advantages.describe('rloo').needs_groups\n"
        "print('torch' in sys.modules)\n"
        "import trl_ext.rl.advantages.rloo\n"
        "from trl_ext.rl.advantages.gae import gae\n"
        "from trl_ext.rl.advantages import remax\n"
        "print(callable(advantages.rloo), advantages.gae is gae, callable(remax), callable(advantages.whiten))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True", "True"]


def test_a_declaration_can_be_sent_to_a_process():
    info = advantages.describe("grpo")
    assert pickle.loads(pickle.dumps(info)) == info


def test_adding_an_advantage_takes_one_file(extended):
    (extended / "plain.py").write_text(NEW)
    assert "plain" in advantages.available() and advantages.readers("shift") == ("plain",)
    assert not advantages.describe("plain").needs_critic
    assert advantages.plain(torch.ones(1, 1), torch.ones(1, 1), shift=2.0).tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("def plain(", "def other(", "must define a function named 'plain'"),
        (
            "rewards: Tensor, mask",
            "scores: Tensor, mask",
            "its tensors are scores, mask. An advantage reads rewards and",
        ),
        ("shift: float = 0.0", "shift: float", "shift must have a default"),
        ("shift: float", "shift: Positiv", "The annotation `Positiv` is not supported"),
        ('PAPER = "arXiv:0000.00000"', "", "must define PAPER as literals"),
    ],
)
def test_a_file_that_is_no_advantage_is_named(extended, old, new, problem):
    (extended / "plain.py").write_text(NEW.replace(old, new))
    with pytest.raises(ValueError) as caught:
        advantages.describe("plain")
    assert problem in str(caught.value) and "plain.py" in str(caught.value)
