# Two commands do everything on a fresh clone: `make demo` and `make test`. Each makes `.venv` itself.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

# uv where it is there (seconds), venv + pip where not. A stamp per set of extras; pyproject.toml renews it.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "batcher needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V); try: make $@ PYTHON=python3.12" >&2; exit 1; }
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@echo "installing batcher[$(1)] into $(VENV) ..."
@if command -v uv >/dev/null 2>&1; then VIRTUAL_ENV=$(VENV) uv pip install -q -e '.[$(1)]'; \
 else $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$(1)]'; fi
@mkdir -p $(VENV)/.made && touch $@
endef

$(VENV)/.made/local: pyproject.toml
	$(call install,local)

$(VENV)/.made/dev: pyproject.toml
	$(call install,dev)

.PHONY: help
help: ## what each target does
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.made/local ## a real model on this machine sorts real reviews: no key, no cost; run it again after a kill and it goes on
	@$(BIN)/python jobs/demo/fetch_reviews.py
	@run=$$($(BIN)/batcher run jobs/demo.yaml | tail -n 1) && $(BIN)/python jobs/demo/score.py "$$run"

.PHONY: test
test: $(VENV)/.made/dev ## the tests that every change must pass (no network, no model)
	$(BIN)/python -m pytest -m "not slow"

.PHONY: test-all
test-all: $(VENV)/.made/dev $(VENV)/.made/local ## every test: long kill and limit proofs, the real local model
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/.made/dev ## format, ruff, strict types, import layers, file and function sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_sizes.py

.PHONY: check
check: lint test ## lint and test

.PHONY: bench
bench: $(VENV)/.made/dev ## speed and memory against the rawest client, the SDK loop and others, in one run: 15 minutes
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scale.py

.PHONY: docs
docs: $(VENV)/.made/dev ## write the generated pages anew; fails in CI when they differ
	$(BIN)/python tools/make_docs.py

.PHONY: clean
clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
