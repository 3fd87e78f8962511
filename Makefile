# What people and CI type; `make help` lists it. Needs Python 3.11 to 3.13 with pip, on Linux or macOS.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
FUZZ_SECONDS ?= 600
FUZZ_FINDINGS ?= fuzz-findings
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help install dev demo depth-sweep fixture test test-slow test-faults soak fuzz audit lock gate independent library triton lint clean

help:
	@echo "make install     create $(VENV) with every backend (a second call is instant)"
	@echo "make demo        install, then train a 48-block mHC transformer on real text"
	@echo "make depth-sweep 27 runs: baseline, hc and mhc at 12, 24 and 48 blocks, 3 seeds each (resumes; about an hour)"
	@echo "make test        everything CI runs: ruff, pyright, tests, notebooks"
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-faults the matrix of faults, the long tests too (about half an hour), and its table"
	@echo "make soak        half an hour of training: memory, file descriptors and disk stay bounded"
	@echo "make fuzz        mutated checkpoints, token files, metrics and configurations (10 minutes; FUZZ_SECONDS=600)"
	@echo "make audit       known vulnerabilities of what requirements.lock pins (needs the internet)"
	@echo "make lock        requirements.lock anew, after a change of pyproject.toml or constraints.txt"
	@echo "make gate        the table of all wirings against all checks (minutes)"
	@echo "make independent compare the wirings with other people's packages, installed in a directory of their own"
	@echo "make library     streams in models of transformers, timm and mlx-lm, in Keras and Lightning, installed in a directory of their own (0.9 GB)"
	@echo "make triton      the Triton kernels in Triton's interpreter on the CPU, and compiled for GPUs (installs 0.7 GB apart)"
	@echo "make lint        ruff and pyright alone"
	@echo "make fixture     train the small runs that the notebooks read by default (about 10 minutes)"
	@echo "make clean       remove builds and caches (not $(VENV), not runs/)"
	@echo "PYTHON=python3.12 make install   chooses the interpreter"

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else "mhc_exp needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; type: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'installing into $(VENV) (minutes the first time) ...'
	$(PIP_INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'installing into $(VENV) (minutes the first time) ...'
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: install
	$(BIN)/python -m mhc_exp variant=mhc depth=48

depth-sweep: install
	$(BIN)/python -m mhc_exp -m sweep=depth_seeds training.eval_every=25 training.metrics_every=20 tracking=local
	$(BIN)/mhc-exp report $${MHC_RUNS:-runs}/depth_seeds

fixture: install
	$(BIN)/python notebooks/make_fixture.py

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Checkpoints, token files, metrics and configurations, mutated for 10 minutes; findings are kept in FUZZ_FINDINGS.
fuzz: dev
	-$(PIP_INSTALL) --target $(VENV)/fuzz atheris==3.0.0
	PYTHONPATH=$(VENV)/fuzz $(BIN)/python tests/fault/fuzz.py --seconds $(FUZZ_SECONDS) --findings $(FUZZ_FINDINGS)

# Needs the internet: asks PyPI for known vulnerabilities of every package of the lock file.
audit: $(VENV)/tools/.installed
	$(VENV)/tools/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip

lock: $(VENV)/tools/.installed
	$(VENV)/tools/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host -c constraints.txt --extra dev \
		--output-file $(VENV)/compiled.txt pyproject.toml
	(grep '^#' requirements.lock; grep -v -e '^#' -e '^$$' -e '^mhc-exp' $(VENV)/compiled.txt) > $(VENV)/requirements.lock
	mv $(VENV)/requirements.lock requirements.lock

$(VENV)/tools/.installed: | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2 pip-audit==2.10.1
	@touch $@

test-slow: dev
	$(BIN)/python -m pytest -m 'slow and not fault'

test-faults: dev
	$(BIN)/python tests/fault/table.py

soak: dev
	$(BIN)/python -m pytest -m soak tests/fault

gate: dev
	$(BIN)/python tests/gate/table.py

# Packages that only this target needs, without their dependencies (Triton, TileLang): their PyTorch code is all we run.
independent: dev
	$(PIP_INSTALL) --no-deps --target $(VENV)/independent -r tests/independent/requirements.txt
	PYTHONPATH=$(VENV)/independent $(BIN)/python -m pytest -m independent tests/independent

# Without their dependencies: PyTorch and MLX are ours already. Keras reads once which backend it runs on, so each has a process.
library: $(VENV)/library/.installed
	PYTHONPATH=$(VENV)/library KERAS_BACKEND=torch $(BIN)/python -m pytest -m library tests/library
	PYTHONPATH=$(VENV)/library KERAS_BACKEND=jax $(BIN)/python -m pytest -m library tests/library/test_keras.py

$(VENV)/library/.installed: tests/library/requirements.txt | dev
	$(PIP_INSTALL) --no-deps --upgrade --target $(VENV)/library -r tests/library/requirements.txt
	@touch $@

# Linux only, and no GPU needed. On a machine with one: python -m pytest -m triton tests/triton_tier
triton: $(VENV)/triton/.installed
	TRITON_INTERPRET=1 PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -m triton tests/triton_tier

$(VENV)/triton/.installed: tests/triton_tier/requirements.txt | dev
	$(PIP_INSTALL) --no-deps --upgrade --target $(VENV)/triton -r tests/triton_tier/requirements.txt
	@touch $@

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
