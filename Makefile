# Everything a developer runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch comes from when the default index would bring a CUDA build; for example a CPU-only index URL.
TORCH_INDEX ?=
MODEL ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help

help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "Python's venv is missing. On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	  exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing qwenops into $(VENV) (about 170 MB to download, no torch) ..."
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tools/install_torch.py | $(BIN)/python
	$(PIP) install 'pip>=25.1'
	$(BIN)/python tools/install_torch.py --index '$(TORCH_INDEX)'
	$(PIP) install -c constraints.txt -e '.[demo,train,qlora,optimize,genai,locust]' --group test --group docs
	@touch $@ $(VENV)/.demo $(VENV)/.train

$(VENV)/.train: pyproject.toml constraints.txt tools/install_torch.py | $(BIN)/python
	@echo "Installing qwenops into $(VENV), with torch for training ..."
	$(PIP) install 'pip>=25.1'
	$(BIN)/python tools/install_torch.py --index '$(TORCH_INDEX)'
	$(PIP) install -c constraints.txt -e '.[demo,train]'
	@touch $@ $(VENV)/.demo

install: $(VENV)/.demo ## Set up .venv for using qwenops

develop: $(VENV)/.dev ## Set up .venv for working on qwenops

demo: $(VENV)/.train ## From calls to a classifier that serves: train a tiny model, promote it, ask it, measure it
	$(BIN)/qwenops demo

demo-speed: $(VENV)/.demo ## Convert a model of the true shape, serve it, ask it, measure it (MODEL=qwen3:0.6b for the real one)
	$(BIN)/qwenops demo-speed $(if $(MODEL),--model $(MODEL))

check: lint docs ## Lint, types, layers, documentation, and every test that needs no root and no extra program
	$(BIN)/python -m pytest -m "not infra" -q

test: lint docs ## Everything that CI runs
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev ## Lint, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

infra: ## Install the programs that infrastructure tests need (root, Debian packages)
	bash tools/install_infra.sh

prove: $(VENV)/.dev ## Every benchmark at its full length; their result files are committed
	$(PIP) install -c constraints.txt -e '.[genai]'
	$(BIN)/python -m benchmarks.run_all

docs: $(VENV)/.dev ## Build the documentation into docs/_build
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

messages: $(VENV)/.dev ## Collect the sentences for translation and compile the catalogues
	$(BIN)/python tools/collect_messages.py

reference: $(VENV)/.dev ## Write docs/reference from the code
	$(BIN)/python -m tools.generate_reference

clean: ## Remove what these commands made inside the checkout
	rm -rf $(VENV) docs/_build dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help install develop demo demo-speed check test lint infra prove docs messages reference clean
