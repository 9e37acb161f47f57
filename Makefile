# Everything works from a clean clone with Python 3.11+, pip and make.
PYTHON ?= python3
BIN := .venv/bin
# The versions that the tests run with; CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install install-dev install-blas lock demo test check-slow check-wheel lint format docs gallery bench bench-device clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed  ## Install the package into .venv

install-dev: .venv/.installed-dev  ## Install what tests, lint and benchmarks need as well

install-blas: .venv/.installed  ## Install a fast BLAS for MLX on Linux: by apt for the whole system, or else MKL into .venv
	sh scripts/install-blas.sh $(BIN)

lock: .venv/.installed-dev  ## Write the versions in .venv to constraints.txt
	$(BIN)/python scripts/lock.py > constraints.txt

demo: .venv/.installed  ## Run the modular-addition study; writes results, figures and a report to runs/demo
	$(BIN)/mlx-entk modular mlp --out runs/demo

test: .venv/.installed-dev  ## Run the tests and the notebooks (about 20 minutes on two cores)
	$(BIN)/pytest -n 2

check-slow: .venv/.installed-dev  ## Run the long checks at the paper's size, real ONNX files and all faults (2 hours, downloads 0.5 GB)
	$(BIN)/pytest -n 2 -m slow tests

check-wheel: .venv/.installed-dev  ## Build wheel and sdist, and run a study with the wheel alone
	scripts/try-wheel.sh $(BIN)

lint: .venv/.installed-dev  ## Check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/.installed-dev  ## Build the documentation into site/, notebooks included, and check it
	$(BIN)/python scripts/build_docs.py

gallery: .venv/.installed-dev  ## Run the studies of docs/gallery.md that have not run, and draw its figures (half an hour)
	$(BIN)/python scripts/gallery.py

bench: .venv/.installed-dev  ## Measure against PyTorch and neural-tangents; writes the tables of the docs
	PYTHON=$(PYTHON) scripts/neural-tangents.sh .venv-neural-tangents
	$(BIN)/python -m benchmarks .venv-neural-tangents/bin/python
	$(BIN)/python -m benchmarks.cliffs
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.large
	$(BIN)/python -m benchmarks.sketch
	$(BIN)/python -m benchmarks.flattened
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.language_model

bench-device: .venv/.installed-dev  ## Measure on the GPU, if MLX has one, and on the CPU; writes device.md
	$(BIN)/python -m benchmarks.device device.md

clean:  ## Remove the environment and caches, but keep runs/
	rm -rf .venv .venv-neural-tangents build dist site docs/notebooks *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mlx-entk needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP_INSTALL) --editable .
	touch $@

# torch first and alone: what depends on it then takes this release.
.venv/.installed-dev: .venv/.installed
	$(PIP_INSTALL) 'torch==2.13.0'
	$(PIP_INSTALL) --editable '.[dev,docs,torch,lm,notebooks]'
	touch $@
