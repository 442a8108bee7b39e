# make demo · make test · make bench · make quality. Each creates .venv on first use and updates it when a requirement changes.
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
	@echo "Setting up $(VENV) (once; downloads several hundred MB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Renders data, trains, evaluates on unseen identities, and explains a photograph with the model folder's own code.
demo: $(READY)
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@$(BIN)/python -m deft_llm.hub_datasets synthesize --out $(DEMO)/data
	@$(BIN)/python train_sft.py --config recipes/tiny.yaml --dataset $(DEMO)/data --output_dir $(DEMO)/deft-tiny
	@$(BIN)/python -m deft_llm.evaluation.run --model $(DEMO)/deft-tiny --dataset $(DEMO)/data --output $(DEMO)/evaluation
	@$(BIN)/python -m deft_llm.demo clip --output $(DEMO)/photograph.mp4
	@$(BIN)/python -m deft_llm.demo explain $(DEMO)/photograph.mp4 --model $(DEMO)/deft-tiny --picture $(DEMO)/explanation.png

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
