# Everything sets up what it needs by itself: Python 3.11 or newer, git and make are enough to begin with.
#
#   make repro   run the pipeline to the gate        make check   formatter, linter, type checker
#   make test    run the tests                       make seeds   ten seeds: is the result luck?
#   make ui      look at the runs in MLflow          make clean   forget the environment and what runs left
#
# The proofs of docs/reproducibility.md, minutes each:
#
#   make prove-cpus     make prove-kills     make prove-faults     make prove-damage

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

.PHONY: repro test check seeds ui hooks format clean prove-cpus prove-kills prove-faults prove-damage

repro: .venv/run
	dvc repro

test: .venv/dev
	python -m pytest --numprocesses auto --dist loadfile

check: .venv/dev
	ruff format --check .
	ruff check .
	mypy

seeds: .venv/run
	python -m benchmarks.seeds

prove-cpus prove-kills prove-faults prove-damage: prove-%: .venv/run
	python -m proofs.$*

ui: .venv/run
	mlflow ui

hooks: .venv/dev
	pre-commit install

format: .venv/dev
	ruff format .
	ruff check --fix .

clean:
	rm -rf .venv checkpoints mlflow.db mlruns

# The files .venv/run and .venv/dev say that the versions in a lock file are installed.
.venv/run: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	echo 'export MLFLOW_DISABLE_TELEMETRY=true' >> .venv/bin/activate
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
