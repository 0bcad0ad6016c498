# make demo     set up, fetch a small chat model, and race five methods on four MT-Bench questions
# make check    set up, then everything CI runs: lint, types, tests
# make setup    only the virtual environment
# make fix      format, and mend what can be mended
# make profile  show where a cycle's time goes (ARGS="target.kernels=torch", any keys of a bench recipe)
# make cost     what a forward costs by nodes and context (ARGS="shape=7b", "contexts=[0,2048,8000]")
# make families try every family of models that transformers knows, and write docs/families.md
# make quality  show what quantised weights cost in quality (ARGS as above, "dataset=humaneval run_code=true")
# make docs     write docs/cli from the commands' own help
# make tables   write the figures of docs/benchmarks into the pages that show them

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
TORCH  := torch==2.13.0
STAMP  := $(VENV)/.set-up
KERNELS = $(wildcard falcon_cli/native/kernels/*.h falcon_cli/native/kernels/*.cpp)

.PHONY: setup demo check lint types test fix cost docs families tables profile quality torch

setup: $(STAMP)

demo: setup
	$(VENV)/bin/falcon bench --recipe recipes/bench/demo.yaml

check: setup lint types test

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(VENV)/bin/clang-format --dry-run --Werror $(KERNELS)

types: setup
	$(PY) -m mypy

test: setup
	$(PY) -m pytest

fix: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(VENV)/bin/clang-format -i $(KERNELS)

profile: setup
	$(PY) -m falcon_cli.studies profile $(ARGS)

cost: setup
	$(PY) -m falcon_cli.studies cost $(ARGS)

families: setup
	$(PY) -m falcon_cli.studies families $(ARGS)

quality: setup
	$(PY) -m falcon_cli.studies quality $(ARGS)

docs: setup
	$(PY) tests/house/cli_pages.py

tables: setup
	$(PY) tests/house/tables.py

# Set up once, and again when pyproject.toml changes. The constraint keeps the torch that is there.
$(STAMP): pyproject.toml | $(PY)
	@$(PY) -c "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)" \
	  || $(MAKE) --no-print-directory torch
	@$(PY) -c "import importlib.metadata as m; print('torch==' + m.version('torch'))" > $(VENV)/torch.txt
	$(PIP) install --quiet --constraint $(VENV)/torch.txt --editable '.[dev]'
	@touch $(STAMP)

$(PY):
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 10) or sys.exit('falcon needs Python 3.10 or newer: make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)

# Without an NVIDIA GPU a CUDA build of torch is several GB of nothing: ask pip what it would install, and take it only
# if no CUDA package is among it.
torch: | $(PY)
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  $(PIP) install --quiet torch --index-url '$(TORCH_INDEX)'; \
	elif [ -n "$(CUDA)" ] || nvidia-smi > /dev/null 2>&1; then \
	  $(PIP) install --quiet 'torch>=2.9'; \
	else \
	  $(PIP) install --quiet --dry-run --ignore-installed --report $(VENV)/torch.json '$(TORCH)' || exit 1; \
	  if grep -qiE '"name": *"(nvidia|cuda|triton)' $(VENV)/torch.json; then \
	    echo "No NVIDIA GPU here, but pip would fetch torch's CUDA build (several GB). Run make setup TORCH_INDEX=<the CPU" \
	      "index address that pytorch.org/get-started shows>, or make setup CUDA=1 to take it anyway." >&2; \
	    exit 1; \
	  fi; \
	  $(PIP) install --quiet '$(TORCH)'; \
	fi
