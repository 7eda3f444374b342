# `make demo` and `make test` need Python 3.11 or newer and a package registry, nothing else.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && exit; done; echo python3)
BIN := .venv/bin
SETUP := pyproject.toml requirements/bootstrap.txt scripts/setup_env.py
SOURCES := src tests scripts benchmarks
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

# One thread a process: two processes share the machine better than two threads, and sums come out
# the same on every run.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint lint-format lint-code lint-layers types audit bench wheel format \
	pins clean

help:
	@echo 'make demo    the whole path on the embedded pyramid (DEMO_ARGS="--seed 7")'
	@echo 'make test    all tests but the slow ones, with coverage'
	@echo 'make slow    the slow tests'
	@echo 'make lint    format, lint and layers      make types    mypy'
	@echo 'make audit   known vulnerabilities of the pinned dependencies'
	@echo 'make bench   the benchmarks               make wheel    build and check the wheel'
	@echo 'make format  mend what can be mended      make pins     resolve requirements/ anew'
	@echo 'make clean   remove what was built here, and the environments'

demo: .venv/.demo-ready
	$(BIN)/pyramid-moa demo $(DEMO_ARGS)

test: .venv/.dev-ready
	$(PYTEST) -m 'not slow' --cov --cov-report=term --junitxml=.pytest-report.xml $(TEST_ARGS)

slow: .venv/.dev-ready
	$(PYTEST) -m slow --timeout=1800 $(TEST_ARGS)

lint: lint-format lint-code lint-layers

lint-format: .venv/.dev-ready
	$(BIN)/ruff format --check $(SOURCES)

lint-code: .venv/.dev-ready
	$(BIN)/ruff check $(SOURCES)

lint-layers: .venv/.dev-ready
	$(BIN)/lint-imports

types: .venv/.dev-ready
	$(BIN)/mypy

audit: .venv/.dev-ready
	$(BIN)/python scripts/audit_dependencies.py

bench: .venv/.dev-ready
	@set -e; for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python $$script $(BENCH_ARGS); done

wheel: .venv/.dev-ready
	$(BIN)/python scripts/check_wheel.py

format: .venv/.dev-ready
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

pins: .venv/.demo-ready
	$(BIN)/python scripts/compile_pins.py

clean:
	rm -rf .venv .venv-litellm build dist .coverage .coverage.* .pytest-report.xml
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info

.venv/.demo-ready: $(SETUP) requirements/cpu-demo.txt
	@$(PYTHON) scripts/setup_env.py demo

.venv/.dev-ready: $(SETUP) requirements/cpu-dev.txt requirements/cpu-vllm.txt
	@$(PYTHON) scripts/setup_env.py dev
