# The dev loop. `make help` lists the targets; ARGS="..." is passed on where a target says so.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# The interpreter of `make gpu-check`: a GPU machine may bring a torch of its own.
PYTHON_BIN ?= $(BIN)/python
# So that only their imports are needed there.
GPU_TESTS = $(shell grep -rlE 'mark\.gpu' --include='test_*.py' tests)
# Written once setup is complete; older than what it depends on, setup runs again.
# Test processes side by side; a file's tests stay in one, so that they share its servers.
WORKERS ?= 2
STAMP := $(VENV)/.setup-complete
OVERLAYS := deploy/base $(wildcard deploy/overlays/*)
BUF := $(BIN)/buf

export PYTHON

.PHONY: help setup kubectl up test check lint types contracts proto-checks manifests \
	protos protos-release bench bench-deltas bench-engines bench-scheduling bench-swap chaos fuzz gpu-check \
	format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| expand -t 18

setup: $(STAMP) ## install everything into .venv (PYTHON=python3.12 picks the interpreter)

$(STAMP): pyproject.toml scripts/setup
	@scripts/setup
	@touch $@

kubectl: setup
	@$(BIN)/python scripts/kubectl.py

up: setup ## run the whole loop: store, trainer, replicas, gateway, clients (ARGS="--seconds 20")
	@$(BIN)/headrace up $(ARGS)

test: kubectl ## run all tests (ARGS="tests/gateway -x"; WORKERS=0 for one process)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: lint types contracts proto-checks manifests ## run every static check
	@echo "check: all clean"

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict scripts/kubectl.py

contracts: setup ## import-linter: who may import whom
	$(BIN)/lint-imports --no-logo

proto-checks: setup ## buf lint, layout and breaking changes; drift of generated files
	$(BUF) lint protos
	$(BUF) format --diff --exit-code protos
	$(BUF) breaking protos --against protos/baseline.binpb
	$(BIN)/python -m protos.generate --check

manifests: kubectl ## render every overlay of deploy/
	@for overlay in $(OVERLAYS); do \
		echo "kubectl kustomize $$overlay"; \
		$(BIN)/kubectl kustomize $$overlay >/dev/null; \
	done

protos: setup ## regenerate the message modules from the .proto files
	$(BUF) format -w protos
	$(BIN)/python -m protos.generate

protos-release: setup ## make today's definitions the ones that must not break
	$(BUF) build protos --exclude-source-info -o protos/baseline.binpb

fuzz: setup ## 120,000 damaged and hostile requests at live servers (ARGS="--seed 7")
	@$(BIN)/python -m tests.fuzz $(ARGS)

chaos: setup ## store and replica faults under load, judged offline; 30 minutes (ARGS="--only NAME --seed 7")
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

bench: setup ## measure the serving path; a table and bench-results/*.json (ARGS="...")
	@$(BIN)/python -m benchmarks.serving $(ARGS)

bench-scheduling: setup ## goodput through overload and failures, beside baselines; 18 minutes (ARGS="--no-baselines")
	@$(BIN)/python -m benchmarks.scheduling $(ARGS)

bench-deltas: setup ## weight deltas on real training runs: bytes and time beside XOR and full (ARGS="--no-encoder")
	@$(BIN)/python -m benchmarks.deltas $(ARGS)

bench-engines: setup ## a forward pass by engine, precision and batch size (ARGS="--precision fp16")
	@$(BIN)/python -m benchmarks.engines $(ARGS)

bench-swap: setup ## swaps under load, publish to first reply, memory, store reads, rollback (ARGS="--swaps 100")
	@$(BIN)/python -m benchmarks.swap $(ARGS)

simulate: setup ## the gateway's policies in simulated time, beside baselines (ARGS="--quick")
	@$(BIN)/python -m benchmarks.simulate $(ARGS)

gpu-check: $(if $(filter $(BIN)/python,$(PYTHON_BIN)),setup) ## tests and measurements that need a GPU; 77 without one (PYTHON_BIN=python3 brings its own torch; ARGS="--mib 64")
	@$(PYTHON_BIN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
		|| { echo "gpu-check: torch finds no CUDA device here; nothing was run" >&2; exit 77; }
	@$(PYTHON_BIN) -m pytest -m gpu $(GPU_TESTS)
	@$(PYTHON_BIN) -m benchmarks.gpu $(ARGS)

format: setup ## let ruff and buf lay out the sources
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BUF) format -w protos

clean: ## remove caches and build outputs; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache bench-results
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
