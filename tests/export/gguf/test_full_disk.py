"""A disk that is full while llama.cpp writes: its programs report it in words of their own, and files may not grow."""

import resource
from contextlib import contextmanager

import pytest

from trl_ext.checkpoints import staging
from trl_ext.export.gguf import converting, quantising
from trl_ext.export.gguf.tools import Tools
from trl_ext.support.errors import UserError

IOSTREAM = "#!/bin/sh\nhead -c 1000 /dev/zero > \"$2\"\necho 'basic_ios::clear: iostream error' >&2\nexit 1\n"
NUMPY = "raise OSError('262144 requested and 4096 written')"


@contextmanager
def full_disk():
    """No file of this process and its children may be larger than 100 kB, whose error is that of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["quantiser", "converter"])
def write(request, tmp_path):
    """Lets a program fail to write a file, and the words in which it does."""
    if request.param == "quantiser":
        program = tmp_path / "llama-quantize"
        program.write_text(IOSTREAM)
        program.chmod(0o755)
        tools = Tools(program, None, program)
        return lambda: quantising.quantise(tools, tmp_path / "x.gguf", tmp_path / "y.gguf", "Q8_0"), "iostream error"
    program = tmp_path / "convert.py"
    program.write_text(NUMPY)
    return lambda: converting.convert_vocabulary(program, tmp_path, tmp_path / "y.gguf"), "4096 written"


def test_a_full_disk_is_recognised(write):
    with full_disk(), pytest.raises(OSError) as caught:
        write[0]()
    assert staging.is_disk_full(caught.value)


def test_with_free_space_the_reason_is_the_program_s_own(write):
    with pytest.raises(UserError, match=write[1]) as caught:
        write[0]()
    assert not staging.is_disk_full(caught.value)
