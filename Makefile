# make demo · make test · make bench · make quality: each sets itself up in .venv on first use and again when a requirement changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo

export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test bench quality format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deft-llm needs Python 3.11 or newer; pass one with PYTHON=/path/to/python3")'
	@echo "Setting up $(VENV) (once; downloads some hundred MB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Data -> training -> evaluation on unseen identities -> a photograph through the pipeline, package not importable.
demo: $(READY)
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@$(BIN)/deft data synthesize --output-dir $(DEMO)/data
	@$(BIN)/deft train --config recipes/tiny.yaml --dataset $(DEMO)/data --output-dir $(DEMO)/deft-tiny
	@$(BIN)/deft evaluate --model $(DEMO)/deft-tiny --dataset $(DEMO)/data --target emotion --baselines majority \
		--output-dir $(DEMO)/evaluation
	@$(BIN)/deft demo clip --output $(DEMO)/photograph.mp4
	@$(BIN)/deft demo explain $(DEMO)/photograph.mp4 --model $(DEMO)/deft-tiny --picture $(DEMO)/explanation.png

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

bench: $(READY)
	@$(BIN)/python -m benchmarks

quality: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache *.egg-info
