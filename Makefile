# Every command of this project; `make help` lists them. Each one prepares .venv by itself and is quick the second time.

# Another one beside it: make VENV=.venv-other PYTHON=/path/to/python test-unit
VENV := .venv
BIN := $(VENV)/bin
DIST := dist
ROOT_FLAG = $(if $(filter 0,$(shell id -u)),--allow-root)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Each process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

# The first Python >= 3.11 that can make virtual environments. Another one: make PYTHON=/path/to/python test
first-of = $(shell for python in $(1); do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
PYTHON ?= $(call first-of,python3 python3.14 python3.13 python3.12 python3.11)
OLDEST_PYTHON ?= $(or $(call first-of,python3.11 python3.12 python3.13 python3.14 python3),$(PYTHON))

# Half as many processes again as there are cores: tests also wait for emulators, kernels and browsers.
PYTEST = -m pytest --numprocesses=$(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2) --maxprocesses=6 --dist=worksteal
# What a change needs first; those marked `nightly` and the other folders of tests are left to `make test-all`.
FIRST_TESTS = tests/unit tests/integration tests/notebooks tests/test_*.py tests/browser/test_smoke.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo lab notebooks screenshots test test-all test-unit test-browser test-clients test-packages test-lowest \
	coverage check docs docs-serve docs-test bench soak chaos mutation constraints wheels descriptors emulator-wheel dist clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-lab ## run the quickstart notebook without a browser and print what it finds
	$(BIN)/python notebooks/run.py notebooks/01_quickstart.ipynb

lab: $(VENV)/.installed-lab ## open the start page of the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab $(ROOT_FLAG) --LabApp.app_settings_dir='$(CURDIR)/notebooks/.lab' \
		--LabApp.default_url=/lab/tree/README.md notebooks

notebooks: $(VENV)/.installed-lab ## run every notebook and store its outputs in place
	$(BIN)/python notebooks/run.py --inplace notebooks/*.ipynb

screenshots: .browser ## make the pictures of the documents anew, and others to look at in build/screenshots
	$(BIN)/python -m pytest tests/browser/screenshots.py

test: .browser ## run the tests that every change needs, in minutes
	$(BIN)/python $(PYTEST) -m "not nightly" $(FIRST_TESTS)

test-all: coverage test-lowest ## run every test, also with the lowest releases that are allowed

coverage: .browser $(VENV)/.installed-release ## run every test, and measure branch coverage
	$(BIN)/python $(PYTEST) --cov --cov-fail-under=90 --durations=15

test-unit: $(VENV)/.installed-test ## run the unit tests
	$(BIN)/python $(PYTEST) tests/unit

test-browser: .browser ## run the tests of the panels in a real JupyterLab
	$(BIN)/python $(PYTEST) tests/browser

test-clients: $(VENV)/.installed-test ## run the tests with clients that others wrote
	$(BIN)/python $(PYTEST) tests/clients

test-packages: $(VENV)/.installed-test $(VENV)/.installed-release ## run the tests of the wheels, the conda recipe, the container and the GitHub Action
	$(BIN)/python $(PYTEST) tests/packages

test-lowest: .venv-lowest/.installed ## run every test but those in a browser with the lowest releases that are allowed
	.venv-lowest/bin/python $(PYTEST) --ignore=tests/browser

mutation: $(VENV)/.installed-test ## change 40 places of the package, and see which changes no test finds; others: make mutation SEED=2
	$(BIN)/python -m tests.mutation --seed $(or $(SEED),1)

check: $(VENV)/.installed-dev ## lint, formatting, types and schemas
	$(BIN)/python -m ruff check . notebooks/*.py
	$(BIN)/python -m ruff format --check . notebooks/*.py
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy notebooks/*.py docs/*.py
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec cloudtasks_nb/emulator/compose*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# The theme prints an advertisement unless the variable is set.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs ## build the site in build/docs; a dead link or a public name without a docstring is an error
	$(BIN)/python -m mkdocs build --quiet

docs-serve: $(VENV)/.installed-docs ## show the site on this machine while you write
	$(BIN)/python -m mkdocs serve

docs-test: $(VENV)/.installed-test ## run what the README and the site show
	$(BIN)/python $(PYTEST) tests/test_documents.py tests/test_examples.py

bench: $(VENV)/.installed-test ## measure, and write the table of figures; beside another commit: make bench AGAINST=v0.2.0
	$(BIN)/python tests/benchmarks/run.py $(if $(AGAINST),--against $(AGAINST) --rounds 7)

soak: $(VENV)/.installed-test ## load one emulator for ten minutes, and write its memory and files; shorter: make soak MINUTES=1
	$(BIN)/python tests/benchmarks/run.py --only soak $(if $(MINUTES),--minutes $(MINUTES))

chaos: $(VENV)/.installed-test ## 10,000 random steps of the model; kill and stop processes for 200 rounds, and write what was found
	$(BIN)/python -m pytest --hypothesis-profile=long tests/unit/fanout/batch/test_batch_machine.py
	$(BIN)/python -m tests.chaos.run
	$(BIN)/python -m tests.chaos.team $(if $(MINUTES),--minutes $(MINUTES))
	$(BIN)/python -m tests.chaos.writers

# One file for every Python from 3.11.0 on and every system: a pin that only some of them can have says which.
constraints: ## write constraints.txt anew, from the newest releases that fit pyproject.toml
	$(call need-python)
	fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PYTHON) -m venv "$$fresh" && "$$fresh/bin/python" -m pip install --quiet uv && \
	"$$fresh/bin/python" -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --extra release \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml --output-file constraints.txt

wheels: $(VENV)/.installed-test ## resolve both distributions to wheels for each Linux, processor and Python, and store the answer
	$(BIN)/python -m tests.wheels

descriptors: $(VENV)/.installed-test ## write the emulator's messages anew, from Google's packages
	$(BIN)/python -m tests.descriptors

emulator-wheel: $(BIN)/pip ## build the wheel of the emulator alone, without the toolkit, in dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(DIST) ./cloudtasks_nb/emulator

dist: $(VENV)/.installed-release emulator-wheel ## build both distributions in dist, and check what an index would take
	$(BIN)/python -m build --outdir $(DIST) .
	$(BIN)/python -m twine check --strict $(DIST)/*
	$(BIN)/check-wheel-contents $(DIST)/*.whl

clean: ## remove .venv and everything else that a command here makes
	rm -rf $(VENV) .venv-* .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +

need-python = @test -n '$(PYTHON)' || { echo 'No Python >= 3.11 with the venv module was found.' \
	'Install one (Debian and Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python' >&2; exit 1; }

.PHONY: .browser
.browser: $(VENV)/.installed-test
	tests/browser/ensure-browser.sh $(BIN)/python

# pip is the last thing that venv writes: an interrupted venv is begun again.
$(BIN)/pip:
	$(call need-python)
	$(PYTHON) -m venv $(VENV)

# An extra that holds another one installs it too, and says so by its stamp.
extras-in-dev := docs test lab
extras-in-test := lab
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -e ".[$*]" -c constraints.txt
	@touch $(foreach extra,$* $(extras-in-$*),$(VENV)/.installed-$(extra))

# What pip cannot choose, uv can: of each package that pyproject.toml names the lowest release, of all others the newest.
.venv-lowest/.installed: pyproject.toml
	$(call need-python)
	rm -rf .venv-lowest
	$(OLDEST_PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/python -m uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[test,release]"
	@touch $@
