# `make repro`: from a fresh clone to a lighter motion adapter. `make test`: everything that must hold.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-machines lint types teacher extractor teacher-check readme study carry-over lock clean faults

repro: $(VENV)/.installed
	dvc repro

test: $(VENV)/.installed lint types
	pytest

# The numeric tests as on other processors, with one thread and two, in odd surroundings: prints a table of the ways.
# `make test-machines WAYS=short` takes the oldest kernels alone.
WAYS ?= full
test-machines: $(VENV)/.installed
	python tests/machines.py $(WAYS)

# Kills, full disks, damage, bad and hostile input, silent wrongs, all cases: prints the table of docs/reliability.md.
faults: $(VENV)/.installed
	LEANMOTION_FAULTS=full pytest --numprocesses 0 tests/faults

lint: $(VENV)/.installed
	ruff check . && ruff format --check .

types: $(VENV)/.installed
	pyright

# The virtual environment follows the lock file and the project's own metadata.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The embedded teacher, and the reader that judges its clips, trained anew: hours. Git carries both; afterwards put the
# new hashes into params.yaml (`dvc repro` names them), and run `make teacher-check`.
teacher: $(VENV)/.installed
	python stages/teacher.py --out-base data/teacher/base --out-adapter data/teacher/adapter

extractor: $(VENV)/.installed
	python stages/extractor.py --out data/extractor

# The committed teacher and reader over 256 clips of held-out captions: metrics/teacher.json. A few minutes.
teacher-check: $(VENV)/.installed
	python stages/prove_teacher.py --out metrics/teacher.json

# After a full run: the README's table, GIF and contact sheet, from its artefacts and metrics.
readme: $(VENV)/.installed
	leanmotion readme

# Deletion orders, training seeds, granularities and one shot against iterative, after `make repro`: docs/results.md.
# `make study BUDGET=small` trains where deletion did harm alone: half an hour. Kill it and run it again: finished trials are kept.
BUDGET ?= full
study: $(VENV)/.installed
	python stages/study.py --budget $(BUDGET)

# The chosen student on another base, at other lengths and steps, under another sampler: needs a finished `make repro`.
carry-over: $(VENV)/.installed
	python stages/carry_over.py

# After a change of the dependencies in pyproject.toml: newest versions that fit, torch kept where it is.
lock: $(VENV)/.installed
	$(BIN)/pip install --quiet --upgrade --editable ".[dev]" torch==2.13.0
	$(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf $(VENV) .scratch
