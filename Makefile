# `make demo` and `make test` share one environment, .venv, made from requirements.lock on first use.

# any Python from 3.11 on; the lock is made and tested with 3.11, so that is looked for first
PYTHON ?= $(or $(shell python3.11 -c 'print("python3.11")' 2>/dev/null),python3)
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"
# of Snakemake's own lines keep the list of jobs and errors; the commands print theirs, and how much time is left
QUIET := --quiet progress rules reason host

.DEFAULT_GOAL := help
.PHONY: help install demo demo-weights smoke wheel smoke-wheel release test fuzz test-browser test-slurm gpu-check bench \
	lint lint-forge format schema third-party docs clean clean-venv

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## make .venv with the versions of requirements.lock and the command `mar`

# uv installs several times as fast as pip, but reads no settings of pip: where these name an index of their own or a
# folder of wheels, pip installs, and so it does where uv fails
# (modules are compiled at their first import, most never, but all at once under PYTHONDONTWRITEBYTECODE, as containers have
# it: an import then keeps nothing)
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
UV := .venv/bin/uv pip install --quiet --python .venv/bin/python --system-certs \
	$(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

.venv/.installed: requirements.lock installer.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed and '$(PYTHON)' is not one; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing requirements.lock into .venv (several GB, minutes)"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || \
		{ echo "'$(PYTHON)' can make no environment with pip; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@if .venv/bin/python -m pip config list | grep -E 'find-links|index' >/dev/null; \
	then echo "pip has settings of where packages are, which uv does not read: pip installs"; \
	else $(PIP) --require-hashes -r installer.lock && $(UV) --require-hashes -r requirements.lock && exit; \
	echo "uv could not install, as said above: pip installs"; fi; \
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# where Fashion-MNIST can be neither found nor fetched, the digits that ship with scikit-learn are used, and that is said
demo: install ## AR and MAR on Fashion-MNIST, or on digits where it cannot be had: tables, verdicts, figures, report
	@export $(RUN); name=demo; \
	snakemake results/demo/data/manifest.json --configfile config/demo.yaml $(QUIET) || { name=demo-digits; \
		echo "Fashion-MNIST cannot be had here, as said above: the demo runs on scikit-learn's digits"; }; \
	mar plan --study $$name && snakemake all --configfile config/$$name.yaml $(QUIET) && mar summary --study $$name

demo-weights: install ## train the demo's tokenizers and judge again, and say whether equal weights ship in config/shipped/
	$(RUN) snakemake all --until rfid --configfile config/demo.yaml --config study=demo-weights shipped=false $(QUIET)
	@$(RUN) mar ship --compare --study demo-weights

smoke: install ## every stage at a size that only proves that it runs
	$(RUN) snakemake all --configfile config/smoke.yaml $(QUIET)

wheel: install ## dist/*.whl: the package with studies, the paper's numbers and the workflow inside
	rm -rf build dist
	$(RUN) python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

smoke-wheel: wheel ## the smoke study by the installed wheel, in an empty folder
	@place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	$(RUN) tests/workflow/from_wheel.sh "$$place" dist/*.whl snakemake all --configfile config/smoke.yaml $(QUIET)

release: wheel ## the wheel and dist/notes.md, if all files agree: make release TAG=v0.1.0
	$(RUN) python packaging/release.py '$(TAG)' dist/notes.md

# the files of tests are shared among the cores, each process of them with one thread and about 2 GB
test: install ## the tests
	$(RUN) pytest -n logical --maxprocesses 8 --dist loadfile --durations 15

test-browser: install ## the report in a headless Chromium; installs it (root, Debian or Ubuntu) or says why not
	@status=0; tests/browser/chromium.sh install || status=$$?; \
	if [ $$status = 77 ]; then exit 0; elif [ $$status != 0 ]; then exit $$status; fi; \
	$(RUN) pytest tests/browser

fuzz: install ## random damage to studies, records, images, shards and weights: minutes; then every bad input of docs/bad-inputs.md
	$(RUN) pytest tests/hostile/test_fuzz.py --hypothesis-profile=long
	$(RUN) python tests/hostile/bad_inputs.py

# MARK names a part of them: make test-slurm MARK='not long'
test-slurm: install ## tests on a real Slurm; installs it (root, Debian or Ubuntu) or says why not, starts and stops it
	@status=0; tests/cluster/slurm.sh install && tests/cluster/slurm.sh start || status=$$?; \
	if [ $$status = 77 ]; then exit 0; elif [ $$status != 0 ]; then tests/cluster/slurm.sh stop; exit $$status; fi; \
	trap 'tests/cluster/slurm.sh stop' EXIT; \
	$(RUN) MAR_TEST_SLURM=1 pytest tests/cluster -m '$(MARK)'

# needs no .venv: any Python with torch from 2.6 on will do, and what is missing is left out
gpu-check: ## ten minutes on one GPU: right, repeatable, how fast; a table and gpu-check.json
	@status=0; $(RUN) $$($(RUN) command -v python || echo python3) -m benchmarks.gpu_check --json gpu-check.json || \
		status=$$?; if [ $$status = 77 ]; then exit 0; fi; exit $$status

bench: install ## speed against the published algorithm: tables, and bench.json for `python -m benchmarks compare`; minutes
	$(RUN) python -m benchmarks --json bench.json

lint: install ## style, types, layers of the package, workflow, drift of the JSON schema
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) mypy
	$(RUN) lint-imports --no-cache
	$(RUN) snakemake --lint
	$(RUN) mar schema | diff - workflow/schemas/study.schema.json

lint-forge: ## workflow files of the forge by actionlint, the Dockerfile by hadolint; fetches both or says why not
	@status=0; tests/forge/lint.sh || status=$$?; if [ $$status = 77 ]; then exit 0; fi; exit $$status

format: install ## write the style that lint asks for
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt Snakefile workflow

schema: install ## write workflow/schemas/study.schema.json after a change of mar/study
	$(RUN) mar schema --out workflow/schemas/study.schema.json

third-party: install ## the licence of every package of requirements.lock
	@$(RUN) python packaging/third_party.py requirements.lock

# in an environment of its own, which needs no torch; NO_MKDOCS_2_WARNING: its authors' advertisement
docs: .venv-docs/.installed ## the site, into site/; its search works on a server: python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

.venv-docs/.installed: docs/requirements.lock
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.lock
	@touch $@

clean: ## delete results/ and figures/, trained models too, but for their READMEs
	find results/ figures/ -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf site .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis

clean-venv: ## delete .venv
	rm -rf .venv .venv-docs
