# `make demo` and `make test` set everything up themselves. PYTHON is the interpreter that makes the environment.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   ?= demo

.PHONY: demo test test-gpu test-slow test-services check bench format lock clean

demo: $(READY)
	$(BIN)/cohort demo -o $(DEMO)

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# On a machine with a GPU and a torch for it: everything that needs one. Without one they skip, and say so.
test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow"

# Against a real PACS and the reference tools, from Debian's packages; `make test` runs these where they are installed.
SERVICES := orthanc orthanc-dicomweb dcmtk dicom3tools
test-services: $(READY)
	command -v apt-get >/dev/null || (echo "this target needs Debian or Ubuntu; elsewhere install $(SERVICES) by hand and run make test" && exit 1)
	dpkg -s $(SERVICES) >/dev/null 2>&1 || \
		$$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install --yes --no-install-recommends $(SERVICES)
	$(BIN)/python -m pytest -m services

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	for script in tests/benchmarks/*.py; do $(BIN)/python $$script --json || exit 1; done

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock is what we test; pyproject.toml says what should work. Needs network. torch and sam2: requirements/sam2.txt;
# radgraph: requirements/radgraph.txt; accelerate and monai: requirements/train.txt.
lock: $(READY)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra codecs --extra notebook --group dev --universal --python-version 3.11 \
		--no-annotate --no-header --quiet -o requirements/dev.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Rebuilt when the lock or pyproject.toml changes, else a no-op: the second `make demo` starts at once.
$(READY): requirements/dev.txt requirements/sam2.txt requirements/radgraph.txt requirements/train.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" && exit 1)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/sam2.txt -r requirements/radgraph.txt \
		-r requirements/train.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)
