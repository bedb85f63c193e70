# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint types docs notebook clean

demo: $(VENV)/installed
	$(BIN)/sketchfusion demo --out demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not guide"

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# Builds the site, without a network, and does what its pages tell a reader to type. The variable
# silences an advertisement that is no warning about these pages.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m guide tests/docs

# Executes the tutorial's notebook again; needs the extra `docs`.
notebook: $(VENV)/installed
	$(BIN)/python docs/execute_notebook.py docs/tutorial.ipynb

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (torch is large: some minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo site
