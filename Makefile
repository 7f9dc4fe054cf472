# make demo, make test: each does its whole set-up on a machine with Python 3.11 or newer and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS := .venv-docs

PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help setup demo docs test test-all lint types quick slow reliability package lowest nnunet lock advisories clean

help:  ## Show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(READY)  ## Make the virtual environment in .venv

# Exact versions, every file checked against its hash, but for torch (docs/supply-chain.md). Where pip finds only torch's CUDA build, that is
# several gigabytes: on a CPU machine put torch's CPU build of the pinned version within pip's reach (PIP_FIND_LINKS) before `make setup`.
$(READY): pyproject.toml requirements/dev.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --require-hashes --no-deps --requirement requirements/dev.txt
	$(PIP) install --requirement requirements/torch.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

demo: setup  ## Run the whole job on made-up images; the page is demo/report.html
	$(BIN)/pixeltrust demo --out demo

# The site has an environment of its own: nothing of it runs with the package.
$(DOCS)/.ready: requirements/docs.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --no-deps --requirement requirements/docs.txt
	@touch $@

docs: $(DOCS)/.ready  ## Build the documentation; its first page is site/index.html
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

test: lint types quick  ## Lint, types and the quick tests: at most five minutes of one processor

test-all: test slow  ## All that must pass before a change lands

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Two workers with a thread each: torch's own threads only get in each other's way on small tensors. A file's tests go to one of them: what
# they share is made once. What one process has compiled the next one need not.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 2 --dist loadfile

quick: setup
	$(PYTEST) -m "not slow" --hypothesis-profile same

slow: setup  ## What `make test` leaves out: the slow tests, and new examples for those that make their own
	$(PYTEST) -m "slow or hypothesis"

reliability: setup  ## The long form of the tests of kills, disks, leaks and load; writes docs/reliability.md's table
	$(BIN)/python tests/reliability/run_all.py

package: setup  ## Build the wheel and the source distribution in dist/, and try both in an empty environment
	.ci/package dist

lowest:  ## The tests with the lowest versions that pyproject.toml allows, in an environment of their own
	PYTHON=$(PYTHON) .ci/lowest $(TESTS)

nnunet:  ## The tests of the nnU-Net adapter, with nnU-Net in an environment of its own
	PYTHON=$(PYTHON) .ci/nnunet

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock' $(UPGRADE)
LOCK = $(COMPILE) --override requirements/without-torch.in pyproject.toml requirements/torch-needs.in

lock: setup  ## Renew the hashes in requirements/, and with UPGRADE=--upgrade the versions
	$(PIP) install uv
	$(LOCK) --extra dev --output-file requirements/dev.txt
	$(LOCK) --extra ray --constraint requirements/dev.txt --output-file requirements/ray.txt
	$(COMPILE) --no-deps --constraint requirements/dev.txt --output-file requirements/nnunet.txt requirements/nnunet.in
	$(COMPILE) --output-file requirements/docs.txt requirements/docs.in

advisories: setup  ## Known holes in the pinned versions, by the Python Packaging Advisory Database (needs the internet)
	$(PIP) install pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement requirements/dev.txt

clean:  ## Remove the environment and the demo
	rm -rf dist .venv .venv-lowest .venv-nnunet $(DOCS) demo site
