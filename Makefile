# Needs Python 3.10 or newer and make. Everything is installed into $(VENV), nothing outside this folder.
PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
VENV_WHEEL ?= .venv-wheel
ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --python $(BIN)/python
# A test process for each core, up to four, of one thread each. Without them: make test WORKERS=0
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))' 2>/dev/null)
# Bytecode is kept even where the environment forbids it: compiling torch's and transformers' sources in each of the
# processes that tests start would take longer than the tests.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(1)/python -m pytest --numprocesses $(or $(WORKERS),0) --dist worksteal

CARDS := vit convnext bert

.DEFAULT_GOAL := help
.PHONY: help demo cards docs test test-lowest test-export test-notebooks test-wheel lint format install clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST)) recipes/evidence.mk | grep -v evidence-

demo: $(VENV)/.installed ## distil a ViT on the embedded data and compare it with plain distillation (ARGS="--seeds 3" for more)
	$(BIN)/hf-e2kd distill --demo vit $(ARGS)

cards: $(VENV)/.installed ## train the students of model_cards/ anew and write their cards
	for name in $(CARDS); do \
		$(BIN)/hf-e2kd distill --demo $$name $(ARGS) && \
		$(BIN)/hf-e2kd card outputs/distill_$$name/student --name distill_$$name --license apache-2.0 && \
		mkdir -p model_cards/distill_$$name && \
		cp $(addprefix outputs/distill_$$name/student/,README.md fidelity.json explanations.png) \
			model_cards/distill_$$name || exit 1; \
	done

docs: $(VENV)/.installed-docs ## build the documentation into docs/_build, with warnings as errors
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build

test: $(VENV)/.installed-test ## run all tests (ARGS="tests/terms -x" for some)
	$(call PYTEST,$(BIN)) $(ARGS)

test-lowest: $(VENV_LOWEST)/.installed ## run the tests with the lowest versions that pyproject.toml allows
	$(call PYTEST,$(VENV_LOWEST)/bin) $(ARGS)

test-export: $(VENV)/.installed-export ## run the tests of exported and quantised files, with ONNX Runtime
	$(call PYTEST,$(BIN)) tests/export tests/recipes/test_quantization_drift.py $(ARGS)

test-notebooks: $(VENV)/.installed-notebooks ## run the notebooks
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute recipes/notebooks/*.ipynb

test-wheel: $(VENV)/.created ## build the wheel and use it, in an environment and a folder of its own
	rm -rf dist && $(BIN)/uv build --quiet --wheel --out-dir dist .
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV_WHEEL)
	$(BIN)/uv pip install --python $(VENV_WHEEL)/bin/python dist/*.whl
	cd $(VENV_WHEEL) && OMP_NUM_THREADS=1 bin/hf-e2kd distill --demo resnet --num_train_epochs 1 --compare false

lint: $(VENV)/.installed-lint ## check style, format, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint ## mend what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed ## install the package into .venv

include recipes/evidence.mk

clean: ## remove the environments and caches
	rm -rf $(VENV) $(VENV_LOWEST) $(VENV_WHEEL) .mypy_cache .pytest_cache .ruff_cache build dist docs/_build docs/repository
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON). Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "hf_e2kd needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) can't make virtual environments: its venv module is missing." \
			"On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet uv
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable '.[test,viewer]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-export: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable '.[test,quantization]'
	@touch $@

$(VENV)/.installed-notebooks: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable '.[notebooks]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable '.[lint]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.created
	$(INSTALL) --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV_LOWEST)/.installed: pyproject.toml | $(VENV)/.created
	$(BIN)/uv venv --clear --python $(BIN)/python $(VENV_LOWEST)
	$(BIN)/uv pip install --python $(VENV_LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	@touch $@
