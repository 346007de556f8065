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

# Two processes of one thread each: on small models a second thread hardly helps one process.
test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# pytest's exit code 5: there are no slow tests.
slow: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow --timeout 3600 || [ $$? -eq 5 ]

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Three learning seeds, judged on the whole evaluation set; then the paper's tables and figures (docs/reproduce.md), and
# the pages that are written from them. Every stage goes on where it was interrupted.
results: $(VENV)/installed
	for seed in 0 1 2; do \
		test -f $(RESULTS)/seed-$$seed/report.html || $(BIN)/reneg learn --seed $$seed \
			--output_dir $(RESULTS)/seed-$$seed --resume_from_checkpoint latest || exit 1; \
	done
	$(BIN)/reneg evaluate --negatives null handcrafted $(RESULTS)/seed-0/negative_embedding.safetensors \
		$(RESULTS)/seed-1/negative_embedding.safetensors $(RESULTS)/seed-2/negative_embedding.safetensors \
		--output_dir $(RESULTS)/evaluation
	$(BIN)/python results/collect.py $(RESULTS)/evaluation docs/before_after.png
	$(BIN)/reneg reproduce table1 --output_dir $(RESULTS)/table1
	$(BIN)/reneg reproduce fig3 --output_dir $(RESULTS)/fig3
	$(BIN)/reneg reproduce fig6 --negative $(RESULTS)/seed-0/negative_embedding.safetensors --output_dir $(RESULTS)/fig6
	$(BIN)/reneg reproduce table2 --output_dir $(RESULTS)/table2
	$(BIN)/python results/refinement.py --output_dir $(RESULTS)/table2
	for name in table3 fig7; do \
		$(BIN)/reneg reproduce $$name --learned world=$(RESULTS)/seed-0/negative_embedding.safetensors \
			--stages_dir $(RESULTS)/transfer --output_dir $(RESULTS)/$$name || exit 1; \
	done
	$(BIN)/python results/write_docs.py $(RESULTS)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,lint]"
	touch $@
