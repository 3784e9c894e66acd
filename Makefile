# Everything sets up what it needs by itself: Python 3.11 or newer, git and make are enough to begin with.
#
#   make repro          run the pipeline to the gate: a minute and a half
#   make test           run the tests: some minutes; make check: formatter, linter, type checker, pages that are stale
#   make report         one page with all plots, for the browser; it needs no network
#   make ui             look at the runs in MLflow; make log-run: log what is on disk, as every run of the gate does
#   make audit          is what is here what a clean clone of the commit makes, in an environment of its own?
#   make clean          forget the environment and what runs left
#
#   make seeds          ten seeds: is the result luck?
#   make bench          speed against PyTorch and JAX; make profile: where the time of a training step goes
#   make explain        break every line of the loop: which test goes red, what does one see? an hour
#   make lessons        ten classic bugs: what each does to the training (docs/course/bugs.md), some minutes
#   make repeat DIR=..  is another DVC project reproducible? (docs/your-project.md) sixteen runs of it
#
# The proofs of docs/reproducibility.md; what they need beside Python is said there:
#
#   make prove-cpus     other machines, in short: 3 minutes     make prove-damage   damaged files: 3 minutes
#   make prove-lock     arm64, all of it: an hour or two        make prove-faults   a disk that fails: 4 minutes
#   make prove-kills    killed at any moment: half an hour      make prove-audit    forged results: half an hour
#   make prove-pages    all plots drawn without a network       make prove-mlflow   a real server, a real queue
#   make prove-library  what pip installs; the weights in PyTorch
#   make prove-remote   a second clone by S3; seeds by Dask workers, one of them killed: 3 minutes
#   make prove-planted  flaws planted in a DVC project: 4 minutes
#   make check-all      tests, checks and all proofs of minutes: half an hour. prove-kills, prove-audit and prove-lock are
#                       longer
#
# For those who change it: make format; make hooks; make lock (the lock files anew, after a change of pyproject.toml);
# make page (the page around the plots, after a change of page/)

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
# Of the user's shell: the first hides our modules from Python, the second tells the gate of an experiment.
unexport PYTHONSAFEPATH DVC_EXP_BASELINE_REV

.PHONY: help repro report page audit test check explain check-all qemu seeds bench profile lessons ui log-run lock
.PHONY: hooks format clean chromium
.PHONY: prove-audit prove-cpus prove-kills prove-faults prove-damage prove-lock prove-planted prove-pages prove-mlflow
.PHONY: prove-library prove-remote repeat

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

repro: .venv/run
	dvc repro
	@git diff --quiet HEAD -- dvc.lock 2> /dev/null \
	  && echo "dvc.lock is that of the commit: this machine computed the same bytes." \
	  || echo "dvc.lock is not that of the commit: git diff dvc.lock shows what differs."

# Prints where it is. Whatever is in the working folder is shown, committed or not.
report: .venv/run
	dvc plots show

page: .venv/dev
	python -m page.build

# Nothing else that lies in this folder or was installed in it takes part: no command of .venv, and, by -IS, no module.
audit: export PATH := $(subst $(CURDIR)/.venv/bin:,,$(PATH))
audit:
	$(PYTHON) -IS proofs/audit.py make PYTHON=$(PYTHON) repro

test: .venv/dev
	python -m pytest --numprocesses auto --dist loadfile

check: .venv/dev
	ruff format --check .
	ruff check .
	mypy
	python -m course.chapter --check
	python -m course.bugs --check

explain: .venv/dev
	python -m course.explain
	python -m course.chapter
	dvc repro shard-to-batches
	python -m course.state

seeds: .venv/run
	python -m benchmarks.seeds

bench: .venv/run .venv-bench/run
	dvc repro train
	.venv-bench/bin/python -m benchmarks.compare

profile: .venv/run
	dvc repro shard-to-batches
	python -m benchmarks.profile_step

lessons: .venv/dev
	dvc repro shard-to-batches
	python -m course.bugs

prove-audit: .venv/run
	python -m proofs.forgeries

# Into the project's own store, whatever the shell names.
prove-audit prove-mlflow prove-remote: export MLFLOW_TRACKING_URI :=

prove-mlflow: .venv/run
	python -m proofs.mlflow_server

prove-remote: .venv/larger
	python -m proofs.remote

prove-cpus prove-kills prove-faults prove-damage prove-planted prove-pages: prove-%: .venv/run
	python -m proofs.$*

DIR ?= .
repeat: .venv/run
	python -m proofs.repeat $(DIR)

# Before an issue is closed. Debian's QEMU and Chromium are installed where they are missing.
check-all: qemu check test prove-cpus prove-pages prove-library prove-mlflow prove-remote prove-planted prove-damage \
  prove-faults audit
	python -m course.state --check

prove-pages: chromium
chromium:
	@command -v chromium > /dev/null || apt-get install --quiet --yes chromium

qemu:
	@command -v qemu-aarch64 qemu-aarch64-static > /dev/null || apt-get install --quiet --yes qemu-user

prove-lock: .venv/run
	python -m proofs.cpus .prove-lock

prove-library: .venv/run .venv-bench/run
	dvc repro baseline-compare
	.venv-bench/bin/python examples/load_in_pytorch.py
	folder=$$(mktemp -d) && python -m venv $$folder/venv && $$folder/venv/bin/python -m pip install -qq . \
	  && cd $$folder && venv/bin/python $(CURDIR)/examples/train_in_30_lines.py \
	  && test -e venv/lib/*/site-packages/minitrain/py.typed && test ! -e venv/lib/*/site-packages/stages \
	  && rm -r $$folder $(CURDIR)/build $(CURDIR)/minitrain.egg-info

ui: .venv/run
	@test -e mlflow.db || { echo "error: no run yet. Make one: make repro" >&2; exit 1; }
	@echo "What was changed, and what came of it: \
	http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=results"
	@mlflow ui --uvicorn-opts '--log-level warning'

log-run: .venv/run
	python -m minitrain.tracking

# What is locked already keeps its version. For newer ones: make lock LOCK_OPTIONS=--upgrade
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: .venv/dev
	$(COMPILE) $(LOCK_OPTIONS) --extra pipeline pyproject.toml -o requirements.lock
	$(COMPILE) $(LOCK_OPTIONS) --group dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) $(LOCK_OPTIONS) --group bench -c requirements.lock -o requirements-bench.lock
	$(COMPILE) $(LOCK_OPTIONS) --group larger -c requirements.lock -c requirements-dev.lock -o requirements-larger.lock

hooks: .venv/dev
	pre-commit install

format: .venv/dev
	ruff format .
	ruff check --fix .

clean:
	rm -rf .venv .venv-bench checkpoints mlflow.db mlruns

PIP_INSTALL := -m pip install -qq --disable-pip-version-check --require-hashes -r

# The files .venv/run and .venv/dev say that the versions in a lock file are installed.
.venv/run: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Installing the locked packages into .venv: some minutes the first time, seconds from pip's cache ..."
	@$(PYTHON) -m venv .venv
	@echo 'export MLFLOW_DISABLE_TELEMETRY=true; unset PYTHONSAFEPATH' >> .venv/bin/activate
	@.venv/bin/python $(PIP_INSTALL) requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	@echo "Installing the packages for tests and checks ..."
	@.venv/bin/python $(PIP_INSTALL) requirements-dev.lock
	@touch $@

.venv/larger: requirements-larger.lock .venv/run
	@echo "Installing the packages for a DVC remote and a Dask cluster ..."
	@.venv/bin/python $(PIP_INSTALL) requirements-larger.lock
	@touch $@

.venv-bench/run: requirements-bench.lock
	@echo "Installing PyTorch and JAX into .venv-bench ..."
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python $(PIP_INSTALL) requirements-bench.lock
	@touch $@
