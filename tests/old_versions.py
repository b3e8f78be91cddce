"""What old versions of libraries, which are still allowed, cannot do."""

import pytest
import transformers
from packaging.version import Version


def skip_without_resume_on_two_cpus() -> None:
    """Skip a test that resumes on two processes without a GPU, where transformers cannot."""
    if Version(transformers.__version__) < Version("5.18"):
        pytest.skip(
            "transformers before 5.18 loads the optimizer of several processes to cpu:0, a device that torch does not load to"
        )
