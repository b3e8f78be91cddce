"""A Hub that cannot be reached costs a moment, and a copy in the cache is then enough."""

import os
import socket
import time
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from trl_ext import data
from trl_ext.cli import main
from trl_ext.data.hub import require_hub_dataset
from trl_ext.model_files.available import require_model
from trl_ext.support import hub
from trl_ext.support.errors import UserError

NOBODYS = "nobody/has-this"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """As without HF_HUB_OFFLINE, with an empty cache; what going offline changes is put back."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_went_offline", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    hub.require.cache_clear()
    yield tmp_path
    hub.require.cache_clear()


@pytest.fixture
def no_network(online, monkeypatch):
    """Names are not resolved. Returns the questions asked, and the seconds that were to be slept."""
    asked, slept = [], []

    def unknown(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    close_session()
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(time, "sleep", slept.append)
    return asked, slept


def cache(folder, name=NOBODYS, file="config.json"):
    home = folder / "hub" / f"models--{name.replace('/', '--')}"
    (home / "snapshots" / "c0ffee").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    (home / "snapshots" / "c0ffee" / file).write_text("{}")


@pytest.mark.parametrize("verb", ["run", "data"])
@pytest.mark.parametrize("key", ["model_name_or_path", "dataset_name"])
def test_a_verb_fails_at_once_with_one_sentence(verb, key, no_network, capsys):
    """The client alone asks six times for each of a tokenizer's files, with half a minute of waiting between them."""
    settings = {"model_name_or_path": "embedded", "dataset_name": "embedded", "use_peft": "true"} | {key: NOBODYS}
    with open("r.yaml", "w") as file:
        file.write("".join(f"{name}: {value}\n" for name, value in settings.items()))
    assert main([verb, "r.yaml"]) == 2
    asked, slept = no_network
    assert len(asked) <= 2 and sum(slept) <= hub.RETRY_SECONDS
    said = capsys.readouterr().err
    assert said.startswith(f"trl-ext: {NOBODYS} is ") and said.count("\n") == 1
    assert "could not be reached" in said or "cannot be reached" in said
    assert "check the network" in said.lower()


def test_so_does_a_run_whose_reward_model_is_not_there(no_network, capsys):
    with open("r.yaml", "w") as file:
        file.write("trainer: ppo\nmodel_name_or_path: embedded\ndataset_name: embedded\nuse_peft: true\nlora_r: 4\n")
        file.write(f"reward_funcs: {NOBODYS}\n")
    assert main(["run", "r.yaml"]) == 2
    assert len(no_network[0]) <= 2
    said = capsys.readouterr().err.splitlines()[-1]  # after the bars of the data
    assert said.startswith(f"trl-ext: {NOBODYS} is ") and "Check the network" in said


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "folder"])
@pytest.mark.parametrize("streaming", [False, True])
def test_local_data_asks_nothing(name, streaming, no_network):
    os.mkdir("folder")
    for file in ("rows.jsonl", "folder/rows.jsonl"):
        with open(file, "w") as written:
            written.write('{"prompt": "p", "chosen": "good", "rejected": "bad"}\n' * 3)
    with open("rows.csv", "w") as written:
        written.write("prompt,chosen,rejected\n" + "p,good,bad\n" * 3)
    assert len(list(data.load(name, streaming=streaming).dataset)) == 3
    assert no_network[0] == []


@pytest.mark.parametrize("file", hub.FILES)
def test_a_copy_in_the_cache_does_and_nothing_more_is_asked(file, no_network, online):
    cache(online, file=file)
    said = require_model(NOBODYS)
    assert said == f"The Hub cannot be reached (ConnectError), so the cached copy of {NOBODYS} is used."
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.is_offline_mode() and datasets.config.HF_HUB_OFFLINE


def test_offline_by_choice_asks_nothing(no_network, online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set\. Unset it, give a local folder"):
        require_model(NOBODYS)
    hub.require.cache_clear()
    cache(online)
    assert require_model(NOBODYS) is None and no_network[0] == []


def test_of_an_adapter_here_the_base_is_asked_for(no_network, online):
    folder = online / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{NOBODYS}"}}')
    with pytest.raises(UserError, match=f"^{NOBODYS} is neither a local folder nor"):
        require_model(str(folder))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone"}')
    assert require_model(str(folder)) is None  # what is said of it, `model_files.model` says


def test_of_which_the_adapter_may_say_a_revision(no_network, online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache(online)
    (online / "hub" / "models--nobody--has-this" / "refs" / "main").rename(
        online / "hub" / "models--nobody--has-this" / "refs" / "v2"
    )
    folder = online / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{NOBODYS}", "revision": "v2"}}')
    assert require_model(str(folder)) is None
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{NOBODYS}"}}')
    assert require_model(str(folder), "v2") is None  # of adapters that do not say it, the run's recipe does
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        require_model(str(folder))


@pytest.mark.parametrize("is_offline", [False, True])
@pytest.mark.parametrize("name", ["org/name/more", "/no/such/place"])
def test_what_is_no_name_is_refused_in_a_sentence(name, is_offline, no_network, online, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    with pytest.raises(UserError, match="neither a local folder nor a name on the Hub"):
        require_model(name)


def test_going_offline_is_not_laid_to_the_user(no_network, online):
    cache(online)
    assert require_model(NOBODYS) is not None
    with pytest.raises(UserError, match=r"could not be reached \(the Hub cannot be reached\).*check the network"):
        data.load("nobody/has-data")
    with pytest.raises(UserError, match=r"and the Hub cannot be reached\. Check the network"):
        require_model("nobody/has-that")


ANSWER = SimpleNamespace(status_code=404, headers={}, request=None)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (GatedRepoError("403", response=ANSWER), "is gated. Accept its terms"),
        (RepositoryNotFoundError("404", response=ANSWER), "no public model of that name on the Hub"),
        (RevisionNotFoundError("404", response=ANSWER), "`model_revision` is v9, but"),
        (HfHubHTTPError("503", response=ANSWER), None),
        (None, None),
    ],
)
def test_what_the_hub_answers(answer, words, online, monkeypatch):
    def answered(url):
        if answer is not None:
            raise answer

    monkeypatch.setattr(hub, "get_hf_file_metadata", answered)
    if words is None:  # a server that is busy is the client's to ask again
        assert require_model(NOBODYS, "v9") is None
        return
    with pytest.raises(UserError, match=words):
        require_model(NOBODYS, "v9")


def test_a_busy_hub_is_no_reason_to_refuse_data_in_the_cache(online, monkeypatch):
    def busy(*_, **__):
        raise HfHubHTTPError("429 Client Error: Too Many Requests", response=ANSWER)

    monkeypatch.setattr(HfApi, "dataset_info", busy)
    with pytest.raises(UserError, match=r"429 Client Error.*the cache has no copy"):
        require_hub_dataset(NOBODYS, None)
    (online / "datasets" / NOBODYS.replace("/", "___")).mkdir(parents=True)
    require_hub_dataset(NOBODYS, None)
    assert not constants.is_offline_mode()


def test_data_in_the_cache_does(no_network, online):
    (online / "datasets" / NOBODYS.replace("/", "___")).mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be loaded"):  # there is nothing in the folder
        data.load(NOBODYS)
    assert datasets.config.HF_HUB_OFFLINE and no_network[1] == []
