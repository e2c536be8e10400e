# Everything here needs Python 3.10 or later, make and git, and the package index. No more.
.DEFAULT_GOAL := help
.PHONY: help adopt keep demo services test slow test-package explore chaos combinations coverage server lint types check test-oldest bench sizes pictures clean env

PYTHON ?= python3
TEMPLATE := {{ cookiecutter.repo_name }}
UV := .venv/bin/uv
RUN := .venv/bin/python -m
# Tests wait for servers and processes as much as they compute: three at once for two cores.
AT_ONCE = $$(.venv/bin/python -c "import os; print(os.cpu_count() * 3 // 2)")

# The tests start many processes; without its .pyc files each would compile MLflow anew.
unexport PYTHONDONTWRITEBYTECODE
# Cookiecutter copies whatever lies in the template: no caches there.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
export RUFF_CACHE_DIR := $(CURDIR)/.ruff_cache
# Usage statistics of Kedro and MLflow are of their users, not of tests; MLflow takes "true" alone.
export DO_NOT_TRACK := true

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv ## Make a project, run it, show its metrics
	@rm -rf .demo
	@mkdir .demo
	@echo "Making an environment with Kedro and MLflow ..."
	@$(UV) venv --quiet --python .venv/bin/python .demo/.venv
	@$(UV) pip install --quiet --python .demo/.venv "kedro>=1.0,<2" -r "$(TEMPLATE)/requirements.txt"
	cd .demo && .venv/bin/kedro new --starter=.. --name "Metrics Demo"
	@$(UV) pip install --quiet --python .demo/.venv --editable .demo/metrics-demo
	cd .demo/metrics-demo && ../.venv/bin/kedro run
	cd .demo/metrics-demo && ../.venv/bin/kedro metrics history training_metrics.loss
	@echo "MLflow's page of it: cd .demo/metrics-demo && ../.venv/bin/kedro metrics ui"

# Their tests skip where they are missing, but for CI. PostgreSQL comes with `make env`.
services: ## Install MariaDB and Chromium for the tests, where missing (Debian, Ubuntu, macOS)
	@packages=""; \
	command -v mariadbd || test -x /usr/sbin/mariadbd || packages="mariadb-server"; \
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| packages="$$packages chromium"; \
	if test -z "$$packages"; then \
		exit 0; \
	elif command -v apt-get; then \
		sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get -qq update; \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$packages; \
	else \
		brew install --quiet $$(echo $$packages | sed "s/mariadb-server/mariadb/"); \
	fi > /dev/null

test: env ## Run the fast tests
	$(RUN) pytest -n $(AT_ONCE) -m "not slow"

slow: env ## Run the slow tests
	$(RUN) pytest -n $(AT_ONCE) -m slow --durations=25

test-package: env ## Run the fast tests with tracking/ as a package beside the projects
	TRACKING=package PYTHONPATH=$(CURDIR)/tests/package $(RUN) pytest -n $(AT_ONCE) -m "not slow and not bundled"

explore: env ## Run the tests that make up examples, on new ones
	HYPOTHESIS_PROFILE=explore $(RUN) pytest -n auto -m hypothesis

chaos: env ## Kill servers and processes at random, 100 times (half an hour)
	CHAOS_ROUNDS=100 $(RUN) pytest -s tests/test_durability.py -k any_end_of_any_process

combinations: env ## Make and adopt projects of all that can be chosen, kill at every write (an hour)
	COMBINATIONS=all $(RUN) pytest -n auto tests/test_adopt.py tests/test_choices.py tests/test_update.py \
		-k "every_project_of_kedros or files_are_these or checks_are_green or every_write or every_state"

coverage: env ## Run the fast tests, and say what of the template they don't reach
	@rm -f .coverage .coverage.*
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(RUN) pytest -n $(AT_ONCE) -m "not slow" --cov

lint: env ## Check style and who imports whom, the template where it lies
	$(RUN) ruff check --config pyproject.toml .
	$(RUN) ruff format --check .
	PYTHONPATH=.venv/lab .venv/bin/lint-imports --no-cache

types: env ## Check types, the template where it lies
	$(RUN) mypy -p lab
	$(RUN) mypy hooks/pre_gen_project.py
	$(RUN) mypy hooks/post_gen_project.py
	$(RUN) mypy src
	$(RUN) mypy tests scripts
	$(RUN) mypy benchmarks

check: test lint types slow test-oldest ## All of these

# MLflow 3.7 and 3.8 need sqlalchemy<2.1: they import what 2.1 has not.
test-oldest: .venv ## Run a project's own tests with the oldest Kedro and MLflow
	@rm -rf .oldest
	@mkdir .oldest
	$(UV) venv --quiet --python .venv/bin/python .oldest/.venv
	$(UV) pip install --quiet --python .oldest/.venv "kedro==1.0.0" "mlflow==3.7.0" "sqlalchemy<2.1" pytest setuptools -r "$(TEMPLATE)/requirements.txt"
	cd .oldest && .venv/bin/kedro new --starter=.. --name "Oldest"
	cd .oldest/oldest && ../.venv/bin/kedro pipeline create churn && ../.venv/bin/kedro run --pipeline=churn
	cd .oldest/oldest && ../.venv/bin/python -m pytest

adopt: .venv ## Bring metrics tracking to a Kedro project: PROJECT=its folder, ARGS=--dry-run, say
	@test -n "$(PROJECT)" || { echo "make adopt PROJECT=/path/to/a/kedro/project"; exit 2; }
	@$(UV) tool run --quiet --from . kedro-mlflow-metrics adopt "$(PROJECT)" $(ARGS)

keep: ## Keep the text of a version for `update`, before the next: VERSION=0.2.0 REVISION=its commit
	git archive --format=zip --output="versions/$(VERSION).zip" "$(REVISION):$(TEMPLATE)/src/{{ cookiecutter.python_package }}/tracking"

bench: .venv ## Measure against kedro-mlflow and MLflow's client (an hour)
	@rm -rf .bench
	@mkdir .bench
	@$(UV) venv --quiet --python .venv/bin/python .bench/env-ours
	@$(UV) venv --quiet --python .venv/bin/python .bench/env-peer
	@$(UV) pip install --quiet --python .bench/env-ours -r "$(TEMPLATE)/requirements.txt"
	@$(UV) pip freeze --quiet --python .bench/env-ours > .bench/versions.txt
	@$(UV) pip install --quiet --python .bench/env-peer kedro-mlflow kedro-datasets -r .bench/versions.txt
	.bench/env-ours/bin/python benchmarks/bench.py $(BENCH)

sizes: env ## Measure how many writers, runs and points one store takes (long)
	PYTHONPATH=benchmarks:tests:.venv/lab nice -n 5 .venv/bin/python benchmarks/sizes.py $(SIZES)

server: env ## Run a team's MLflow server, with PostgreSQL and passwords, until Ctrl-C
	PYTHONPATH=tests .venv/bin/python scripts/team_server.py $(SERVER)

pictures: env ## Make docs/*.png from a real run (needs Chromium: `make services`)
	PYTHONPATH=tests .venv/bin/python scripts/pictures.py

clean: ## Remove what was made here, and caches
	rm -rf .venv .demo .oldest .bench .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf "$(TEMPLATE)/.ruff_cache" "$(TEMPLATE)/.mypy_cache" "$(TEMPLATE)/.pytest_cache"

# The tests' project is called lab: under that name its package, as it lies in the template, can
# be imported by the tools that check it.
env: .venv
	@$(UV) pip install --quiet --python .venv --group dev -r "$(TEMPLATE)/requirements.txt"
	@mkdir -p .venv/lab
	@ln -sfn "$(CURDIR)/$(TEMPLATE)/src/{{ cookiecutter.python_package }}" .venv/lab/lab

.venv:
	@echo "Making an environment in .venv ..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
