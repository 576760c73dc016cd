# Everything a newcomer needs: `make quickstart` and `make test` set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv/.peers

.PHONY: help quickstart examples test test-long check generate bench bench-trainer bench-operator clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(READY)  ## Fine-tune a small model on this machine: operator, trainer and S3, no cluster needed
	$(BIN)/python -m examples.quickstart

examples: $(READY)  ## Run every example of examples/ through local mode, and print what came of each
	$(BIN)/python -m examples

test: $(READY)  ## All tests but the long ones
	$(BIN)/python -m pytest -m 'not long' -n auto --dist loadfile

test-long: $(READY)  ## The long tests: faults in great number
	$(BIN)/python -m pytest -m long

check: $(READY)  ## Static checks: style, types, who imports whom, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m finetune_operator.generate --check

generate: $(READY)  ## Write every generated file anew
	$(BIN)/python -m finetune_operator.generate

bench: $(READY)  ## Measure the start of local mode and the operator's memory
	$(BIN)/python benchmarks/local_start.py

bench-trainer: $(PEERS)  ## Measure the trainer beside TRL and transformers' Trainer
	$(BIN)/python -m benchmarks.trainer

bench-operator: $(READY)  ## Measure the operator at scale beside plain Jobs
	$(BIN)/python -m benchmarks.operator

clean:  ## Remove what the other commands made
	rm -rf .venv build dist

# torch comes first and by its pin: otherwise a range elsewhere could pull another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(PEERS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@
