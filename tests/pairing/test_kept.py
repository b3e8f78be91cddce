"""`trl-ext pairs`: what is kept after an interrupt or an error, and used by the next command."""

import os
import signal

import pytest

from tests.pairing.command import content, pairs, read
from trl_ext.demo import grammar
from trl_ext.pairing import sample as sampling_room


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_command_continues_to_the_same_bytes(
    small_recipe, policy, done, sampled, tmp_path, monkeypatch, after
):
    output = tmp_path / "pairs"
    watched = sampling_room.sample

    def failing(*args, **settings):
        if len(sampled) == after:
            raise RuntimeError("stopped")
        return watched(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_room, "sample", failing)
        with pytest.raises(RuntimeError, match="stopped"):
            pairs(small_recipe, output)
    assert not (output / "train.jsonl").exists() and len(sampled) == after
    assert pairs(small_recipe, output) == 0
    assert content(output) == content(done)
    assert len(sampled) == 4  # seven prompts, two a batch: nothing was sampled twice


def test_a_torn_line_is_sampled_again(small_recipe, policy, done, sampled, tmp_path):
    output = tmp_path / "pairs"
    assert pairs(small_recipe, output) == 0
    (completions,), (scores,) = ([*(output / "kept").glob(f"{name}-*")] for name in ("completions", "scores"))
    completions.write_bytes(completions.read_bytes()[:-40])
    scores.unlink()
    (output / "provenance.json").unlink()
    sampled.clear()
    assert pairs(small_recipe, output) == 0
    assert (output / "train.jsonl").read_bytes() == (done / "train.jsonl").read_bytes() and len(sampled) == 1


def test_ctrl_c_keeps_what_was_sampled(small_recipe, policy, done, sampled, tmp_path, monkeypatch, capsys):
    output, watched = tmp_path / "pairs", sampling_room.sample

    def interrupting(*args, **settings):
        if len(sampled) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return watched(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_room, "sample", interrupting)
        assert pairs(small_recipe, output) == 130
    assert "Run the same command again to continue." in capsys.readouterr().err
    assert pairs(small_recipe, output) == 0
    assert "Kept from an earlier command: completions of 6 and scores of 4 prompts." in capsys.readouterr().out
    assert content(output) == content(done)


def test_a_second_command_samples_and_scores_nothing(small_recipe, policy, done, sampled, monkeypatch, capsys):
    monkeypatch.setattr(grammar, "reward", None)
    before = content(done)
    assert pairs(small_recipe, done) == 0 and not sampled and content(done) == before


def test_other_settings_are_refused_and_overwritten(small_recipe, policy, done, sampled, tmp_path, capsys):
    output = tmp_path / "pairs"
    assert pairs(small_recipe, output) == 0
    sampled.clear()
    assert pairs(small_recipe, output, "--margin", "0.4", "--temperature", "0.7") == 2
    assert capsys.readouterr().err == (
        f"trl-ext: {output} holds data that was made with other settings: `temperature` was 1.0 and is 0.7, `margin` was 0.0 and is "
        "0.4. Choose another `--output`, or add `--overwrite` to replace it.\n"
    )
    assert pairs(small_recipe, output, limit=3) == 2
    assert "there are other prompts." in capsys.readouterr().err
    # Completions and scores do not depend on the margin.
    assert pairs(small_recipe, output, "--margin", "0.4", "--overwrite") == 0 and not sampled
    assert all(row["score_chosen"] - row["score_rejected"] > 0.4 for row in read(output / "train.jsonl"))
