# `make serve` and `make test` are all a fresh machine needs; both set up first, and only once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
PORT ?= 8080
WORKERS ?= 1
TARGETS ?= connection request numbers coding array
SECONDS ?= 25
IRIS_TF := examples/iris_tensorflow/iris.tar.gz
IRIS_TORCH := examples/iris_pytorch/iris.tgz

.DEFAULT_GOAL := help
.PHONY: help setup serve test check bench soak fuzz docs format

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready $(CLIENTS)/.ready  ## Make .venv, and .venv-clients for the tests, with pinned versions of everything

serve: $(VENV)/.ready $(IRIS_TF) $(IRIS_TORCH)  ## Train the iris models if they are not there, and serve both on port 8080
	@echo "[serve] http://localhost:$(PORT), stop with Ctrl-C"
	@exec $(BIN)/python -m modelserver iris=$(IRIS_TF) iris_pytorch=$(IRIS_TORCH) \
		--http_port $(PORT) --workers $(WORKERS)

test: setup  ## Run the whole test suite
	$(BIN)/python -m pytest

check: setup  ## Lint, types, import contracts, Dockerfiles
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile.pytorch Dockerfile.tf

bench: setup  ## Measure against KServe, mosec and LitServe (25 minutes; ROWS=iris,image for some, OPTIONS=--quick)
	$(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS)) $(OPTIONS)

soak: setup $(IRIS_TF) $(IRIS_TORCH)  ## A million requests and more; nothing may grow (15 minutes; SCENARIOS="user idle" for some)
	$(BIN)/python soak/soak.py $(OPTIONS) $(SCENARIOS)

fuzz: setup  ## Fuzz what reads requests, two minutes (TARGETS=connection SECONDS=600 for one part)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@for target in $(TARGETS); do \
		echo "[fuzz] $$target"; \
		$(BIN)/python tests/fuzz/run_fuzz.py $$target -max_total_time=$(SECONDS) -verbosity=0 || exit 1; \
	done

docs: setup  ## Write the generated pages of docs/
	$(BIN)/python docs/generate.py

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(IRIS_TF) $(IRIS_TORCH): | $(VENV)/.ready
	@echo "[serve] training $@ on the iris data"
	@$(BIN)/python $(@D)/train.py

# torch first and pinned: any later line that asks for torch is then satisfied by the CPU build.
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "[setup] making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[setup] PyTorch"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "[setup] TensorFlow, modelserver and the tools (a minute or two)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,tensorflow,fast,grpc,examples,dev]'
	@# The client of the gRPC tests. It asks for the full TensorFlow, and works with the one that is there.
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps tensorflow-serving-api
	@touch $@

# The real clients (kserve, tritonclient) and KServe's own server, which tests/clients and the benchmark run. Their
# protobuf is older than TensorFlow's, so they have an environment of their own. Not tritonclient[all]: it brings CUDA.
# --no-compile: half of the time went into bytecode of Kubernetes clients that nobody imports.
$(CLIENTS)/.ready: constraints-clients.txt
	@echo "[setup] making $(CLIENTS)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --no-compile -c constraints-clients.txt \
		kserve 'tritonclient[http,grpc]' grpcio-reflection tornado
	@touch $@
