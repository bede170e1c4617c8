# `make` alone lists the targets. Everything runs inside .venv, which is made on first use.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export OMP_WAIT_POLICY ?= PASSIVE # also where a notebook imports torch before mrtutor, which says why
PYTHON ?= python3
PRESET ?= laptop
WORKERS ?= 2
STUDY ?= outputs/reader_study
BIN := .venv/bin
READY := .venv/.ready
RUNNER := $(BIN)/python -m experiments.chapters

.PHONY: help run test simulate train notebooks pages studio reader-study student instructor book publish lint clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp is written last: an interrupted set-up is repeated, a finished one is not.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f"Expected Python 3.11 to 3.13, got {v[0]}.{v[1]}: name another, as in make PYTHON=python3.12 run")'
	@echo "Setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY)  ## set up, then run the quickstart notebook into outputs/00_quickstart.ipynb
	@mkdir -p outputs
	@$(BIN)/papermill --cwd . --log-output notebooks/00_quickstart.ipynb outputs/00_quickstart.ipynb
	@echo "Quickstart done: the notebook with its pictures lies in outputs/00_quickstart.ipynb, the images in outputs/00."

test: $(READY)  ## style, unit tests and every notebook in its smoke preset
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	@echo "make test: style and tests passed."

simulate: $(READY)  ## make the simulated cohort in outputs/cohort
	@$(BIN)/mrtutor simulate --out outputs/cohort

train: $(READY)  ## train all stages on outputs/cohort (PRESET=laptop), or go on after a cut
	@$(BIN)/mrtutor train all --preset $(PRESET) --cohort outputs/cohort --resume

notebooks: $(READY)  ## run every chapter with its own parameters and keep the outputs (long)
	@$(RUNNER) --in-place
	@echo "Chapters run; notebooks/ holds their outputs."

pages: $(READY)  ## print README, RESULTS.md, PAPER.md and the model cards anew from data/results/figures.csv
	@$(BIN)/python -m experiments.pages

studio: $(READY)  ## the studio as a web page on 127.0.0.1
	@JUPYTER_CONFIG_PATH=notebooks MRTUTOR_STUDIO_WEIGHTS=$(PRESET) $(BIN)/voila notebooks/studio.ipynb --Voila.ip=127.0.0.1

reader-study: $(READY)  ## the reader study on 127.0.0.1; COHORT=folder for slices of your own cohort
	@$(BIN)/python -m mrtutor.apps.reader_study prepare --weights $(PRESET) --out $(STUDY) $(if $(COHORT),--cohort "$(COHORT)")
	@JUPYTER_CONFIG_PATH=notebooks MRTUTOR_STUDY=$(STUDY) $(BIN)/voila notebooks/reader_study.ipynb --Voila.ip=127.0.0.1

student: $(READY)  ## chapters without outputs and solutions, in outputs/student
	@$(BIN)/python -m experiments.handout student

instructor: $(READY)  ## chapters with outputs and solutions, in outputs/instructor
	@$(BIN)/python -m experiments.handout instructor

# The site has packages of its own, which come only when somebody asks for it.
.venv-book/.ready: book/requirements.txt
	$(PYTHON) -m venv .venv-book
	.venv-book/bin/pip install --disable-pip-version-check -r $<
	@touch $@

book: .venv-book/.ready  ## chapters and pages as a static site, in outputs/book
	@.venv-book/bin/sphinx-build -q -c book -d .venv-book/doctrees . .venv-book/html
	@mkdir -p outputs && rm -rf outputs/book && cp -r .venv-book/html outputs/book
	@echo "Open outputs/book/index.html in a browser, or put the folder on any web server."

publish: $(READY)  ## ADDRESS=https://…: write the repository's public address into chapters, README and CITATION.cff
	@$(BIN)/python -m experiments.publish "$(ADDRESS)"

lint: $(READY)  ## mend what ruff can mend, report the rest
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove the environment and caches; outputs/ stays
	@rm -rf .venv .venv-book .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed the environments and caches; outputs/ is untouched."
