# make demo | test | check | slow | results. Each builds the virtual environment in $(VENV) when it is missing or out of date.
# Other settings: make PYTHON=python3.12 …; pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL …) are obeyed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo

RESULTS := runs/results

.PHONY: demo test check slow results

demo: $(VENV)/installed
	test -f $(DEMO)/report.html || $(BIN)/reneg learn --output_dir $(DEMO) --resume_from_checkpoint latest
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

# Three learning seeds, judged on the whole evaluation set; goes on where it was interrupted.
results: $(VENV)/installed
	for seed in 0 1 2; do \
		test -f $(RESULTS)/seed-$$seed/report.html || $(BIN)/reneg learn --seed $$seed \
			--output_dir $(RESULTS)/seed-$$seed --resume_from_checkpoint latest || exit 1; \
	done
	$(BIN)/reneg evaluate --negatives null handcrafted $(RESULTS)/seed-0/negative_embedding.safetensors \
		$(RESULTS)/seed-1/negative_embedding.safetensors $(RESULTS)/seed-2/negative_embedding.safetensors \
		--output_dir $(RESULTS)/evaluation
	$(BIN)/python results/collect.py $(RESULTS)/evaluation docs/before_after.png

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,lint]"
	touch $@
