"""Settings of a judge behind an API that cannot work are refused together."""

import subprocess
import sys

import pytest

from trl_ext.judging.api_settings import ApiSettings
from trl_ext.support.errors import UserError


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/v1", "https://api.openai.com/v1/", "http://[::1]:8000/v1", " http://10.0.0.2/api "]
)
def test_addresses_of_apis(url):
    assert ApiSettings(model="m", base_url=url).base_url == url.strip().rstrip("/")


@pytest.mark.parametrize(
    "url", ["", "localhost:11434/v1", "ftp://localhost/v1", "http:///v1", "http://a b/v1", "http://localhost:port/v1", "http://[::1/v1", None]
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(UserError, match=r"base_url is .* Write it as http://localhost:11434/v1"):
        ApiSettings(model="m", base_url=url)


@pytest.mark.parametrize(
    "url", ["https://me:sk-1234@host/v1", "https://host/v1?api_key=sk-1234", "https://host/v1#sk-1234"]
)
def test_a_key_in_the_address_is_refused_without_showing_it(url):
    with pytest.raises(UserError, match="must not hold a key") as raised:
        ApiSettings(model="m", base_url=url)
    assert "1234" not in str(raised.value)


def test_the_end_point_is_appended_for_the_user():
    with pytest.raises(UserError, match="Leave out /chat/completions"):
        ApiSettings(model="m", base_url="http://localhost:8000/v1/chat/completions")


def test_all_problems_are_reported_at_once():
    with pytest.raises(UserError) as raised:
        ApiSettings(model=" ", concurrency=0, timeout=float("nan"), retries=-1, max_tokens=1.5, temperature=-1)
    assert len(raised.value.problems) == 6
    with pytest.raises(UserError, match="concurrency is True"):
        ApiSettings(model="m", concurrency=True)


def test_settings_need_neither_the_client_nor_torch():
    code = "import sys, trl_ext.judging.api; print({'openai', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
