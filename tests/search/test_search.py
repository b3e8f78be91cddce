"""A whole search on the embedded model: its trials, its result, and what another command continues."""

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from trl_ext import cli, recipe
from trl_ext.build import pretrained
from trl_ext.runs import run
from trl_ext.search import clock, report, rungs, space
from trl_ext.search.settings import Settings, record, study_name

QUICK = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "max_train_samples": 32,
    "lora_target_modules": ["q_proj", "down_proj"],
    "lora_dropout": 0.1,
    "disable_dropout": False,
    "logging_steps": 1,
}
FLAGS = [word for key, value in QUICK.items() for word in (f"--{key}", str(value).replace("'", ""))]
SMALL = [
    "--samples",
    "8",
    "--max_new_tokens",
    "6",
    "--search.rungs",
    "1",
    "--max_kl",
    "50",
    "--losses",
    "dpo,simpo",
    "--quiet",
]


def search(directory: Path, *more: str) -> int:
    return cli.main(["search", "demo", "--output_dir", str(directory), *FLAGS, *SMALL, *more])


def read(directory: Path) -> dict:
    return json.loads((directory / report.RECORD).read_text())


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Five trials, the third of which was interrupted once, in three commands; with the number of loaded bases and what the
    reference cache gave to each finished trial."""
    directory = tmp_path_factory.mktemp("search")
    loaded, counts, create, train = [], [], pretrained.load, run.train

    def counting(*args, **kwargs):
        loaded.append(args)
        return create(*args, **kwargs)

    def noting(*args, **kwargs):
        trained = train(*args, **kwargs)
        counts.append((args[0].loss, trained.counts))
        return trained

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(pretrained, "load", counting)
        patch.setattr(run, "train", noting)
        assert search(directory, "--trials", "2") == 0
        first = read(directory)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(rungs.Rungs, "_measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert search(directory, "--trials", "4") == 130
        interrupted = read(directory)
        assert search(directory, "--trials", "4", "--hours", "2") == 0
    return directory, first, interrupted, loaded, counts


def test_what_was_finished_is_kept_and_the_interrupted_trial_is_repeated(searched):
    directory, first, interrupted, _, _ = searched
    last = read(directory)
    assert [each["state"] for each in first["trials"]] == ["finished", last["trials"][1]["state"]]
    assert interrupted["trials"][:2] == first["trials"] and last["trials"][:2] == first["trials"]
    (waiting,) = interrupted["trials"][2:]
    assert waiting["state"] == "not finished" and last["trials"][2]["number"] == waiting["number"] == 3
    assert last["trials"][2]["folder"] == "trials/0002" and len(last["trials"]) == 4
    assert all(each["state"] in ("finished", "stopped early") for each in last["trials"])


def test_the_first_trial_is_the_recipe(searched):
    first = read(searched[0])["trials"][0]
    assert first["is_recipe"] and first["settings"] == {
        "loss": "dpo",
        "beta": 1.0,
        "learning_rate": 5e-4,
        "lora_r": 16,
    }


def test_trials_share_the_base_and_the_reference_cache(searched):
    _, _, _, loaded, counts = searched
    assert len(loaded) == 3  # once per command
    of_dpo = [found for loss, found in counts if loss == "dpo"]
    assert of_dpo[0][1] > 0 and all(computed == 0 for _, computed in of_dpo[1:])


def test_the_result_is_a_recipe_whose_run_is_the_trial(searched, tmp_path, monkeypatch):
    """Bit for bit: neither the measurements on the way nor the trials before change it, with dropout.

    The reference cache is empty. The common one holds the same completions if an earlier test has trained on them; with
    `packing: false`, their log-probabilities differ in the last digits from those of packed rows, and then so do the weights."""
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))
    directory = searched[0]
    found = read(directory)
    best = found["trials"][[each["number"] for each in found["trials"]].index(found["best"])]
    loaded = recipe.load(directory / report.BEST)
    assert {key: loaded.values[key] for key in best["settings"]} == best["settings"] and loaded.search is None
    assert cli.main(["validate", str(directory / report.BEST)]) == 0
    assert run.main(str(directory / report.BEST), {"output_dir": str(tmp_path / "alone"), "disable_tqdm": True}) == 0
    alone, trial = (
        load_file(path / "adapter_model.safetensors") for path in (tmp_path / "alone", directory / best["folder"])
    )
    assert alone.keys() == trial.keys() and all(torch.equal(alone[name], trial[name]) for name in alone)


def test_the_best_has_the_largest_measure(searched):
    found = read(searched[0])
    finished = {each["number"]: each["value"]["value"] for each in found["trials"] if each["value"]}
    assert finished[found["best"]] == max(finished.values()) and set(found["frontier"]) <= finished.keys()


def test_the_page_shows_every_finished_trial(searched):
    text = (searched[0] / report.PAGE).read_text()
    finished = [each for each in read(searched[0])["trials"] if each["value"]]
    assert text.count("data:image/png") == 1 and all(f"{each['value']['value']:.3f}" in text for each in finished)
    assert "trl-ext run" in text and "KL of at most 50 nats" in text


def test_other_settings_are_refused_there(searched, capsys):
    assert search(searched[0], "--trials", "9", "--search.seed", "1") == 2
    assert "`seed` was 0 and is 1" in capsys.readouterr().err


def test_the_name_of_the_study_tells_searches_apart():
    read_recipe = recipe.load("recipes/demo.yaml")
    made = space.make("recipes/demo.yaml", {}, read_recipe, ["dpo"])
    one, other = (study_name(read_recipe, record(read_recipe, made, Settings("accuracy", seed=i))) for i in range(2))
    assert one.startswith("demo-") and one != other


def test_a_search_without_time_for_a_trial_says_how_long_one_takes(tmp_path, capsys, monkeypatch):
    """Each look at the clock takes 1,000 s, so that the hour is over after the first step, however fast the machine is."""
    looks = itertools.count(1)
    monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: time.time() + 1000 * next(looks)))
    assert search(tmp_path / "short", "--hours", "1") == 2
    said = capsys.readouterr().err
    assert "No trial could be finished within 1 hours. A trial of 4 steps takes about" in said
    assert "Give more `--hours`" in said
