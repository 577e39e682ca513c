# Thin over scripts: each target is one command that can be run by hand as well.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest

.PHONY: help venv tools up down status test test-fast lint format bench lock

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

venv: .venv/.ready ## Make .venv, the development environment.

.venv/.ready: pyproject.toml tests/requirements.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

tools: ## Install and build what the tests need on this machine: Slurm, browser, helm.
	python3 -m local tools

up: ## Bring up a Kubernetes (or use the current one) with the demo installed.
	python3 -m local up

down: ## Remove all that `make up` made; the build cache stays.
	python3 -m local down

status: ## Say what runs, where, and how healthy it is.
	@python3 -m local status

test: venv tools up ## Run all tests: unit, integration, cluster, browser.
	$(PYTEST)

test-fast: venv tools ## Run the unit and integration tests; no Kubernetes.
	$(PYTEST) -m "unit or integration"

lint: venv ## Check style, types and scripts.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: venv ## Put the code in its one form.
	.venv/bin/ruff check --fix --select I .
	.venv/bin/ruff format .

bench: venv tools ## Measure: `name ours stock ratio unit`, a line each.
	$(PYTHON) -m benchmarks

lock: venv ## Write the lock files anew.
	PATH=$(CURDIR)/.venv/bin:$$PATH sh images/lock.sh
	.venv/bin/uv pip compile --quiet --no-emit-index-url --python-version 3.11 --extra test \
	  --constraint images/hub/requirements.txt --custom-compile-command "make lock" \
	  --output-file tests/requirements.txt pyproject.toml
