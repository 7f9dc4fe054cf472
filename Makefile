# make demo, make test: each does its whole set-up on a machine with Python 3.11 or newer and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test lint types unit reliability clean

help:  ## Show what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(READY)  ## Make the virtual environment in .venv

# The constraints file pins the versions that are tested. Where pip finds only torch's CUDA build, that is several gigabytes: on a CPU
# machine put torch's CPU build of the pinned version within pip's reach (PIP_FIND_LINKS) before `make setup`.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## Run the whole job on made-up images; the page is demo/report.html
	$(BIN)/pixeltrust demo --out demo

test: lint types unit  ## Everything that must pass

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Two workers with a thread each: torch's own threads only get in each other's way on small tensors.
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

reliability: setup  ## The long form of the tests of kills, disks, leaks and load; writes docs/reliability.md's table
	$(BIN)/python benchmarks/reliability.py

clean:  ## Remove the environment and the demo
	rm -rf .venv demo
