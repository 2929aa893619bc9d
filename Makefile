# One environment, .venv, made from pyproject.toml and made again when that file changes.
PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
ROOMS := runtime calib distill export
TYPED := build/types/deepir
REPORT := runs/shop/report.html

TEST_EXTRAS := cpu,train,rtx,faiss,mqtt,page,test
DEMO_EXTRAS := cpu,train

# uv installs faster; pip stands in every environment either way
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install -q --python $(BIN)/python,$(BIN)/python -m pip install -q --disable-pip-version-check)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help test demo lint types clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target words; do \
		printf '  make %-6s %s\n' "$$target" "$$words"; done
	@echo
	@echo '  make test PYTEST_ARGS="-k regions"      make demo DEMO_ARGS="..."      make test PYTHON=python3.12'

test: $(VENV)/.ready-test  ## Run the whole suite (two processes; more words for pytest in PYTEST_ARGS).
	@# a file's tests stay together, so that what they share is built once
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)
	@echo "make test: ran pytest in $(VENV) ($$($(BIN)/python --version), extras $(TEST_EXTRAS)); no test failed."

demo: $(VENV)/.ready-demo  ## Train, quantise and run the shop demonstration; writes runs/shop/report.html.
	$(BIN)/python examples/shop/run_demo.py $(DEMO_ARGS)
	@if [ -f $(REPORT) ]; then echo "make demo: done; open $(CURDIR)/$(REPORT)"; \
	else echo "make demo: done; no $(REPORT), so look where DEMO_ARGS sent it"; fi

lint: $(VENV)/.ready-test  ## Check style and format with ruff.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.ready-test  ## Check the types of the five rooms with mypy, strict.
	@# mypy cannot see setuptools' editable finder, so it gets a folder that looks like the installed package
	@rm -rf $(TYPED) && mkdir -p $(TYPED)
	@ln -s "$(CURDIR)"/core/* $(TYPED)/
	@for room in $(ROOMS); do ln -sfn "$(CURDIR)/$$room" "$(TYPED)/$$room"; done
	MYPYPATH=$(dir $(TYPED)) $(BIN)/mypy -p deepir

clean:  ## Remove the environment, builds, caches and runs/shop.
	rm -rf $(VENV) build dist runs/shop deepir.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "deepir needs Python 3.10 or newer, and there is no $(PYTHON): name one, as in make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "deepir needs Python 3.10 or newer, got $$("$(PYTHON)" --version 2>&1 | head -n 1): name another, as in make PYTHON=python3.12"; exit 1; }
ifneq ($(UV),)
	@$(UV) venv -q --seed --allow-existing --python "$(PYTHON)" $(VENV)
else
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "this Python cannot make environments: sudo apt install python3-venv, then run make again"; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
endif
	@touch $@

# torch and torchvision must be resolved together: apart, pip may pair versions that do not fit
define install
	@echo "Installing deepir with [$(1)] into $(VENV): torch from the Python package index is several GB, this takes minutes."
	@$(INSTALL) -e '.[$(1)]'
	@touch $@
endef

$(VENV)/.ready-demo: pyproject.toml $(VENV)/.created
	$(call install,$(DEMO_EXTRAS))

$(VENV)/.ready-test: pyproject.toml $(VENV)/.created
	$(call install,$(TEST_EXTRAS))
	@touch $(VENV)/.ready-demo
