# make demo: install into .venv and run the whole pipeline on real digits
# make test: install into .venv and run the tests
# make site: these pages as a site in build/site
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs site install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdbias needs Python >= 3.11; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/kdbias demo -o kdbias-demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --max-worker-restart 0

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m kdbias.cli.reference

site: install
	rm -rf build/pages build/site
	mkdir -p build/pages
	git ls-files --cached --others --exclude-standard README.md CHANGELOG.md LICENSE docs benchmarks data_manifests \
	  | tar -cf - -T - | tar -xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --config-file docs/mkdocs.yml

clean:
	rm -rf $(VENV) build *.egg-info
