# Every target makes its own environment; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
export NO_ALBUMENTATIONS_UPDATE := 1
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(BIN)/.installed ## Make the environment in .venv (also done by every other target)

# uv because pip takes six times as long here; installed into the environment, so only Python is needed.
$(BIN)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet 'uv>=0.8'
	UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -e '.[dev]'
	touch $@

demo: install ## Portraits at other ages, by the bundle that ships; look at demo/index.html
	$(BIN)/capricious demo --out demo

whole-way: install ## From pictures to a small model and its sweeps; look at whole-way/index.html
	$(BIN)/python examples/whole_way.py --out whole-way

test: install ## Run the tests
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: install ## Run the slow tests: DeepSpeed, several processes, compiled packages
	$(BIN)/python -m pytest -q -m slow

coverage: install ## Run the tests and say which share of each room's lines they pass
	mkdir -p .coverage && rm -f .coverage/data*
	$(BIN)/coverage run -m pytest -q -m "not slow"; tests=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage json --quiet -o .coverage/report.json && \
	$(BIN)/python tests/coverage_by_room.py .coverage/report.json && exit $$tests

lint: install ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell platform jobs serve tests benchmarks examples docs README.md CHANGELOG.md

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install ## Measure the sweep, the training step and the service; benchmarks/ has more, which need data
	for each in sweep train_step serve; do $(BIN)/python benchmarks/$$each.py || exit 1; done

# Without torch and its CUDA libraries, which infra/docker/Dockerfile installs as the build that a target wants.
TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
	cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
lock: install ## Pin, with hashes, all that the container image installs
	$(BIN)/uv pip compile --quiet pyproject.toml --extra video --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --no-emit-index-url $(addprefix --no-emit-package ,$(TORCH)) \
		--output-file infra/docker/requirements.txt

clean: ## Remove what was made, but not the fetched weights
	rm -rf .venv .coverage demo whole-way build *.egg-info platform/*.egg-info .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install demo whole-way test test-slow coverage lint format benchmark lock clean
