"""Import everything that a run imports, and compute nothing: the server of `benchmarks.lives` loads this module."""

from trl_ext import methods, recipe
from trl_ext.runs import libraries

libraries.configure(recipe.load("demo"))  # before the imports below

import bitsandbytes  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import transformers.integrations.bitsandbytes  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import benchmarks.killed  # noqa: E402, F401
import trl_ext.build.trainer  # noqa: E402, F401
import trl_ext.evaluation.run_report  # noqa: E402, F401
import trl_ext.runs.run  # noqa: E402, F401

for method in methods.METHODS.values():
    method.classes()
