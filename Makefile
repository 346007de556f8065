# make demo | test | check | slow. Each builds the virtual environment in $(VENV) when it is missing or out of date.
# Other settings: make PYTHON=python3.12 …; pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL …) are obeyed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test check slow

demo: $(VENV)/installed
	$(BIN)/reneg learn --output_dir $(DEMO)
	$(BIN)/reneg evaluate --negatives null handcrafted $(DEMO)/negative_embedding.safetensors \
		--max_prompts 16 --num_seeds 1 --output_dir $(DEMO)/evaluation
	@echo "Learned:   $(CURDIR)/$(DEMO)/report.html"
	@echo "Evaluated: $(CURDIR)/$(DEMO)/evaluation/report.html"

test: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# pytest's exit code 5: there are no slow tests.
slow: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow --timeout 3600 || [ $$? -eq 5 ]

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,lint]"
	touch $@
