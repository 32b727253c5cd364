# make train    train on what this machine has   make train ARGS="--seed 3"   ACCEL=cpu|cuda|cuda12
# make test     everything CI checks             make help                    all targets
# Environment: VENV=.venv (where), PYTHON=/path/to/python (on which interpreter).

VENV ?= .venv
ACCEL ?= auto
ARGS ?=
PYTHON ?=
PY := "$(VENV)/bin/python"
# Whatever python3 there is runs the set-up script, which then looks for one that is new enough.
BOOT := $(shell command -v python3 || command -v python3.12 || command -v python3.11 || command -v python)
SETUP = "$(or $(BOOT),python3)" tools/setup_env.py --venv "$(VENV)" --accel $(ACCEL) --python "$(PYTHON)" --group
ifeq ($(ACCEL),cpu)
export JAX_PLATFORMS = cpu
endif

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train bench test test-fast lint doctor lock clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## the environment for training (second run: instant)
	@$(SETUP) core

setup-dev: ## the same, with what the tests and linters need
	@$(SETUP) dev

train: setup ## train; ARGS="--help" lists every option
	@$(PY) train.py $(ARGS)

bench: setup-dev ## benchmarks, as JSON lines and benchmarks/RESULTS.md
	@$(PY) -m benchmarks.harness $(ARGS)

test: setup-dev ## what CI runs: lint, format, types, imports, style, whole test suite
	@$(PY) tools/check.py all -- $(ARGS)

test-fast: setup-dev ## the tests without those marked slow
	@$(PY) tools/check.py fast -- $(ARGS)

lint: setup-dev ## the static checks alone
	@$(PY) tools/check.py lint

doctor: setup ## versions, devices, threads, memory, disk, GL
	@$(PY) -m mjx_serl.cli doctor

lock: setup-dev ## pin pyproject.toml into requirements/*.txt
	@$(PY) tools/lock.py

clean: ## remove the environment and every cache; runs/ stays
	rm -rf "$(VENV)" .tools .cache .pytest_cache .ruff_cache .hypothesis build dist
