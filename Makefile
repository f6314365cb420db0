# Two commands do everything, from a bare machine on: `make reproduce` and `make test`.
.PHONY: help setup reproduce test quick lint types pytest docs fuzz mutants faults matrix bench gpu results build lock \
  clean

BIN := .venv/bin

help:
	@echo 'make reproduce [ARGS="--preset smoke"]  set up .venv and run the paper'"'"'s experiment'
	@echo 'make test                               set up .venv and run ruff, mypy and pytest'
	@echo 'make quick                              ruff, mypy and a slice of every test file: under two minutes'
	@echo 'make lint | types | pytest              one of these checks alone'
	@echo 'make pytest ARGS=tests/test_loss.py     one file of tests; ARGS=--every-case: every combination of parameters'
	@echo 'make docs                               the site of the documentation, strictly, in out/site'
	@echo 'make fuzz ARGS="--examples 20000"        calls that nobody thought of, against reference/'
	@echo 'make mutants ARGS="FILE --most 20"      break a file in small ways, and see whether its tests notice'
	@echo 'make faults ARGS="--commands memory"     kill commands, fill their disk, let two write: what is left?'
	@echo 'make matrix                             the quick tests on the oldest and the newest releases, each in its own .nox'
	@echo 'make bench [ARGS="-k targets"]          measure everything: a table and bench/results/bench.json'
	@echo 'make gpu                                all that a GPU has to tell, into bench/results/; status 3 without one'
	@echo 'make results                            write bench/RESULTS.md from the files in bench/results/'
	@echo 'make build                              wheel and source archive, in dist/'
	@echo 'make lock                               write .ci/requirements.lock from constraints.txt; needs uv'
	@echo 'make clean                              remove .venv, dist/ and caches'
	@echo 'PYTHON=/path/to/python3 picks the interpreter of .venv'

setup:
	@.ci/setup

reproduce: setup
	$(BIN)/cofm reproduce $(ARGS)

test: lint types pytest

quick: lint types
	$(BIN)/pytest -n 2 --dist worksteal --quick $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy cofm_triton tests bench docs/site docs/examples docs/figures

pytest: setup
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

docs: setup
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs/site . out/site
	@echo 'Site: out/site/index.html'

fuzz: setup
	$(BIN)/pytest -n 2 --dist worksteal tests/test_fuzz.py $(ARGS)

mutants: setup
	PYTHONPATH=tests $(BIN)/python -m mutation $(ARGS)

faults: setup
	$(BIN)/python tests/faults.py $(ARGS)

matrix: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[matrix]'
	$(BIN)/python -m nox $(ARGS)

bench: setup
	$(BIN)/pytest bench --benchmark-only --benchmark-quiet --results bench/results/bench.json $(ARGS)

gpu: setup
	$(BIN)/python bench/gpu.py

results: setup
	$(BIN)/cofm bench --page

build: setup
	$(BIN)/python -m build

lock: # PyTorch and Triton have builds of their own on many an index, and other hashes there
	printf 'torch\ntriton\n' | uv pip compile pyproject.toml --extra dev --constraint constraints.txt --quiet \
	  --universal --python-version 3.10 --generate-hashes --no-annotate --excludes /dev/stdin \
	  --custom-compile-command 'make lock' --output-file .ci/requirements.lock

clean:
	rm -rf .venv .nox dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find cofm_triton reference tests -name __pycache__ -prune -exec rm -rf {} +
