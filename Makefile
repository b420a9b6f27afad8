# The commands to remember. `make help` lists them.
PYTHON ?= python3
CACHE := $(or $(BERTOPS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bert-operator)
export PYTHONPATH := $(CURDIR)/tests
# A run starts hundreds of Pythons, and none need compile our sources anew; types are checked anew only where code changed.
unexport PYTHONDONTWRITEBYTECODE
export MYPY_CACHE_DIR := $(CACHE)/mypy
VENV = $(shell PYTHONPATH="$(CURDIR)/tests" $(PYTHON) -m stages venv)
RUN = PYTHONPATH=$(CURDIR)/operator:$(CURDIR)/build_jobs:$(CURDIR)/tests $(VENV)
BIN = $(dir $(VENV))

.DEFAULT_GOAL := help
.PHONY: help campaign bench-operator bench-build bench-mission demo demo-clean test check fmt lint type layers generate-check unit golden crds lock cluster clean-all venv tensorrt-api support-matrix data-safety server-faults

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## a real BERT on a real Kubernetes node, from `kubectl apply` to a checked answer; SERVER=triton|tfserving|torchserve, TUNE=1
	@$(PYTHON) -m stages demo --server "$(or $(SERVER),triton)" $(if $(TUNE),--tune)

demo-clean: venv ## remove what `make demo` started; downloads and builds stay cached
	@$(RUN) -m demo clean

test: ## every test, on real parts; CI runs this
	@$(PYTHON) -m stages test

check: venv lint type layers generate-check ## format, lint, types, layers, generated files in step

fmt: venv ## format the code and fix what can be fixed
	@$(BIN)ruff format -q . && $(BIN)ruff check -q --fix .

lint: venv
	@$(BIN)ruff format --check . && $(BIN)ruff check .

type: venv
	@$(BIN)mypy

layers: venv
	@PYTHONPATH=operator:build_jobs $(BIN)lint-imports

generate-check: venv
	@$(RUN) -m bert_operator.api.crd --check && $(RUN) -m bert_operator.api.reference --check

unit: venv ## unit and golden tests: seconds, no cluster
	@$(RUN) -m pytest tests/unit tests/golden

golden: venv ## write the golden files anew; read the diff
	@GOLDEN=write $(RUN) -m pytest -q tests/golden

crds: venv ## generate crds/, the chart's copies and docs/reference.md from bert_operator.api
	@$(RUN) -m bert_operator.api.crd && $(RUN) -m bert_operator.api.reference

lock: venv ## resolve the dependencies anew and write the hashed requirements
	@$(PYTHON) -m images lock

bench-mission: ## every sample end to end on one cluster; prints one JSON line last
	@$(PYTHON) -m stages mission

bench-operator: venv ## the operator's speed, requests and memory beside a bare kopf operator; one JSON line last; ONLY=P1,P3, N=100 (full: about an hour, writes docs/bench-operator.*; ADD=1 adds ONLY to them)
	@$(RUN) -m bench.operator_bench $(if $(ONLY),--only $(ONLY)) $(if $(N),--n $(N)) $(if $(ADD),--add,$(if $(ONLY)$(N),,--write))

bench-build: ## our build command beside `optimum-cli export onnx`, bert-base; prints one JSON line last; writes docs/bench-build.* (8 minutes; not in `make test`)
	@$(PYTHON) -m bench.build --write

server-faults: venv ## every fault of every real server on a real node, named within 10 s (8 minutes; some are in `make test`)
	@BERTOPS_ALL_FAULTS=1 BERTOPS_E2E_MODEL="$(CACHE)/models/all-MiniLM-L6-v2" $(RUN) -m pytest -v -rP tests/e2e/test_server_faults.py

campaign: venv ## the fault campaign in full (up to 90 minutes), writes docs/campaign.*; RESUME=1, ONLY=R1/create/3/before, AT_ONCE=8
	@$(RUN) -m chaos $(if $(ONLY),$(addprefix --only ,$(ONLY)),--write) $(if $(RESUME),--resume) $(if $(AT_ONCE),--at-once $(AT_ONCE))

support-matrix: venv ## build and spoil every family, task and format in the build images; writes docs/support-matrix.* (5 minutes; not in `make test`)
	@$(RUN) -m matrix

data-safety: venv ## kill, freeze and lie to builders and collectors of one store, ROUNDS=500 times from SEED=1 on; writes docs/data-safety.json
	@$(RUN) -m chaos.store_rounds --rounds $(or $(ROUNDS),500) --seed $(or $(SEED),1) $(if $(SEED),,--sweep --write docs/data-safety.json)

tensorrt-api: venv ## hold the compile script against the real TensorRT 10 and 11 (1.1 GB, no GPU needed; not in `make test`)
	@FOLDER=$$($(PYTHON) -m images.tensorrt_libraries) && BERTOPS_TENSORRT="$$FOLDER" $(RUN) -m pytest -q tests/tensorrt

cluster: ## just the local cluster; prints its KUBECONFIG
	@$(PYTHON) -m localcluster up

clean-all: ## remove clusters, downloads and builds
	@$(PYTHON) -m localcluster down --all
	@# buildah keeps its layers' folder mounted on itself, and a build that was killed leaves more: rm stops at those.
	@awk -v below="$(CACHE)/" 'index($$2, below) == 1 {print $$2}' /proc/mounts | tac | xargs -r -n 1 umount
	@rm -rf "$(CACHE)"

venv:
	@$(PYTHON) -m stages.venv
