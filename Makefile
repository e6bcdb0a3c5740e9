# perdure: `make demo` shows it, `make test` checks it. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CONSOLE := src/perdure/web/console/index.html
CONSOLE_SOURCES := $(shell find ui/src ui/public -type f) ui/index.html ui/vite.config.ts ui/tsconfig.json ui/package-lock.json

.PHONY: help setup ui screenshots demo test lint format oldest bench simulate soak proto settings patterns clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ui  ## create .venv and install everything for development, the console too if there is Node

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "perdure needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable '.[openai,pydantic,server]' --group dev
	@touch $@

ui: $(CONSOLE)  ## build the web console, with the machine's Node

$(CONSOLE): $(CONSOLE_SOURCES)
	@if ! command -v npm >/dev/null; then echo "The web console was not built: it needs Node 20.19 or newer. Everything else works without."; \
	elif ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; then \
	  echo "The web console was not built: it needs Node 20.19 or newer, not $$(node --version)."; \
	else cd ui && npm ci --ignore-scripts --loglevel=error && npm run --silent build -- --logLevel=warn; fi

screenshots: setup  ## take the pictures in docs/console anew; needs chromium
	$(BIN)/python -m tests.console.screenshots

demo: setup  ## a research agent, killed again and again, that finishes its work
	$(BIN)/python -m examples.research_agent.demo

test: lint  ## everything that CI runs
	$(BIN)/python -m tests

lint: setup  ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## rewrite the tree in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

oldest: setup  ## the agent integrations, with the oldest versions that they support; needs a package index
	$(PYTHON) -m venv $(VENV)-oldest-clients && $(PYTHON) -m venv $(VENV)-oldest-pydantic-ai
	$(VENV)-oldest-clients/bin/python -m pip install --quiet --editable . openai==1.99.1 anthropic==0.64.0 pytest pytest-timeout psutil
	$(VENV)-oldest-clients/bin/python -m pytest tests/ai/openai tests/ai/anthropic
	$(VENV)-oldest-pydantic-ai/bin/python -m pip install --quiet --editable . 'pydantic-ai-slim[anthropic,mcp,openai]==2.66.0' pytest pytest-timeout psutil
	$(VENV)-oldest-pydantic-ai/bin/python -m pytest tests/ai/pydantic_ai
	$(PYTHON) -m venv $(VENV)-oldest-openai-agents && $(PYTHON) -m venv $(VENV)-oldest-langchain && $(PYTHON) -m venv $(VENV)-oldest-adk
	$(VENV)-oldest-openai-agents/bin/python -m pip install --quiet --editable . openai-agents==0.22.0 pytest pytest-timeout psutil
	$(VENV)-oldest-openai-agents/bin/python -m pytest tests/ai/openai_agents
	$(VENV)-oldest-langchain/bin/python -m pip install --quiet --editable . langchain==1.4.0 langgraph==1.2.12 langchain-openai pytest pytest-timeout psutil
	$(VENV)-oldest-langchain/bin/python -m pytest tests/ai/langchain tests/ai/langgraph
	$(VENV)-oldest-adk/bin/python -m pip install --quiet --editable . google-adk==2.13.0 openai pytest pytest-timeout psutil
	$(VENV)-oldest-adk/bin/python -m pytest tests/ai/google_adk

bench: setup  ## the figures, beside DBOS and restate-server
	$(BIN)/python -m bench

simulate: setup  ## repeat one seed of the simulator: make simulate SEED=7
	$(BIN)/python -m perdure.testing.simulator --seed $(or $(SEED),0) --trace

soak: setup  ## hours of seeds and kills; never in CI
	$(BIN)/python -m perdure.testing.simulator --seeds $(or $(SEEDS),100000)
	$(BIN)/python -m pytest tests/durability --soak

proto: setup  ## regenerate the wire messages from wire.proto
	cd src && ../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. perdure/protocol/wire.proto

settings: setup  ## rewrite the table in docs/configuration.md
	$(BIN)/python -m perdure.cli.reference docs/configuration.md

patterns: setup  ## rewrite the table in docs/ai/patterns.md from the tests that pass; google-adk's with what `make oldest` made
	$(BIN)/python -m tests.ai.patterns

clean:  ## remove what setup made
	rm -rf $(VENV) $(VENV)-oldest-* src/perdure/web/console ui/node_modules .mypy_cache .ruff_cache .pytest_cache
