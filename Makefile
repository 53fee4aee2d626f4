# `make serve` and `make test` are all a fresh machine needs; each makes .venv itself.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
BUILT_FROM := pyproject.toml constraints.txt setup.py $(wildcard converter/*/native/* converter/*/*/native/*)
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt

# The client of OpenAI's API before its third version, beside the present one: tests use both.
OPENAI_2 = $(BIN)/python -m pip install --quiet $(PIP_FLAGS) --no-deps --upgrade --target .venv/openai-2 openai==2.54.0 distro==1.9.0

.PHONY: serve test test-fast lint format setup openapi page check-model bench conformance clean

serve: .venv/.serve
	$(BIN)/anemone serve $(ARGS)

# A process more than there are cores, since many tests wait for servers, but no more than 4: each takes about 1 GB.
PROCESSES ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
PYTEST = $(BIN)/python -m pytest -n $(PROCESSES) --maxprocesses 4 --dist worksteal

test: .venv/.develop
	$(PYTEST) $(ARGS)

# Without what takes several seconds each.
test-fast: .venv/.develop
	$(PYTEST) -m "not slow" $(ARGS)

lint: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

format: .venv/.develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: .venv/.develop

# The API's document, exported from the app.
openapi: .venv/.serve
	$(BIN)/python -m server.cli.openapi

# The page at /, from page/src into server/web, which is kept in the repository: only this needs node, 20.11 or later.
page:
	cd page && npm ci --ignore-scripts --no-audit --no-fund && npm run build

# Paints held-out prompts and judges their pixels: a table and a contact sheet in build/.
check-model: .venv/.develop
	mkdir -p build
	$(BIN)/anemone convert demo/model -o build/anemone-demo --name anemone-demo
	$(BIN)/python -m demo.check --model build/anemone-demo --sheet build/sheet.png --table build/table.json

# Speed and memory beside named peers, all of it (hours), or BENCH='conversion --size sdxl --peers' or
# BENCH='inference --only unet'. Building one of the peers takes a C++ compiler; BENCH=mac, for a Mac, has no peers.
bench: $(if $(filter mac,$(firstword $(BENCH))),.venv/.develop,.venv/.bench)
ifdef BENCH
	$(BIN)/python -m benchmarks.$(BENCH)
else
	$(BIN)/python -m benchmarks.published
	$(BIN)/python -m benchmarks.conversion --peers
	$(BIN)/python -m benchmarks.compression
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.merging --peers
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.hostile
endif

# coremltools' own operator tests, predicted by our runtime; CONFORMANCE='--op conv', '--sample 25', '--torch'.
conformance: .venv/.develop
	$(BIN)/python -m benchmarks.conformance $(CONFORMANCE)

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.serve: $(BUILT_FROM) | $(BIN)/python
	$(INSTALL) -e '.[mcp]'
	touch $@

.venv/.develop: $(BUILT_FROM) | $(BIN)/python
	$(INSTALL) -e '.[dev,demo]'
	$(OPENAI_2)
	touch $@ .venv/.serve

.venv/.bench: $(BUILT_FROM) | $(BIN)/python
	$(INSTALL) -e '.[bench,dev,demo]'
	$(OPENAI_2)
	touch $@ .venv/.develop .venv/.serve

clean:
	rm -rf .venv build *.egg-info
