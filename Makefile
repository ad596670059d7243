# `make` lists the targets. The first one that needs it makes .venv from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := .venv/.ritz-stamp
BUILDING := .venv/.ritz-building

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(STAMP) ## fit eight schools and print its summary
	rm -rf demo-fit
	$(BIN)/ritz fit eight_schools --out demo-fit
	$(BIN)/ritz summary demo-fit

test: lint ## lint, then every test that is not slow
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint ## lint, then every test
	$(BIN)/python -m pytest -n 2

lint: $(STAMP) ## style, format, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure fits and estimators against peers
	$(PIP) --no-build-isolation -e '.[bench]'
	-@$(MAKE) --no-print-directory .venv-genjax/.installed
	$(BIN)/python bench/first_fit.py
	$(BIN)/python bench/estimators.py
	$(BIN)/python bench/against_numpyro.py
	$(BIN)/python bench/flows.py
	$(BIN)/python bench/families.py

# A peer that needs other versions; where it cannot be installed, its rows are missing.
.venv-genjax/.installed:
	$(BIN)/python -m venv .venv-genjax
	.venv-genjax/bin/python -m pip install --quiet --disable-pip-version-check \
	  genjax==0.10.3 jax==0.5.3
	touch $@

clean: ## remove caches, builds and the demo's fit; .venv stays
	rm -rf demo-fit dist build .pytest_cache .ruff_cache .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A .venv that works is brought up to date; one that does not, or whose making was interrupted
# (BUILDING is still there), is made again. pip's isolated builds do not see constraints.txt, so the
# build backend is installed first and used from .venv.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ -e $(BUILDING) ] || ! sh tools/preflight.sh $(BIN)/python >/dev/null 2>&1 \
	    || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python=$$(sh tools/preflight.sh '$(PYTHON)'); \
	  echo "Making .venv with $$python: once, about a minute."; \
	  rm -rf .venv; mkdir .venv; touch $(BUILDING); \
	  "$$python" -m venv .venv; \
	fi; \
	rm -f $@; touch $(BUILDING); \
	$(PIP) hatchling editables; \
	$(PIP) --no-build-isolation -e '.[dev]'; \
	mv $(BUILDING) $@
