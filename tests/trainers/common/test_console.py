"""What trainers print: warnings name the run that they are about, where a command carries out several."""

from accelerate import Accelerator

from trl_ext.support import terminal
from trl_ext.support.run_log import log
from trl_ext.trainers.common import console


def test_a_warning_names_its_run_on_the_terminal_and_not_in_its_log(tmp_path, capsys):
    accelerator = Accelerator(cpu=True)
    with terminal.quiet(), log.open(), console.about("trial 3"):
        log.begin(tmp_path, "begun")
        console.say(accelerator, "step 2 of 4")
        console.say(accelerator, "warning, step 2: the KL is large", is_warning=True)
    console.say(accelerator, "afterwards")
    assert capsys.readouterr().out.splitlines() == ["trial 3: warning, step 2: the KL is large", "afterwards"]
    written = (tmp_path / "run.log").read_text()
    assert "\nwarning, step 2: the KL is large\n" in written and "trial 3" not in written
