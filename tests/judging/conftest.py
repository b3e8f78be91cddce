"""A judge at a stub server."""

import pytest

from tests.judging.api_helpers import TEMPLATE
from tests.judging.stub_server import MODEL
from trl_ext.judging import api
from trl_ext.judging.api import ApiJudge
from trl_ext.judging.api_settings import ApiSettings


@pytest.fixture
def quick(monkeypatch):
    """Pauses of milliseconds, no key, and no proxy between the tests and the loopback."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(api, "MALFORMED_PAUSE", 0.01)
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def judge(quick, tmp_path):
    """Makes a judge at a stub server, each with the same cache."""

    def make(stub, template=TEMPLATE, **settings) -> ApiJudge:
        return ApiJudge(
            ApiSettings(**{"model": MODEL, "base_url": stub.url, **settings}), template, tmp_path / "verdicts"
        )

    return make
