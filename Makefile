# Each target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
PIP_FLAGS ?=
ENVIRONMENT := .venv/installed
DEVELOPMENT := .venv/installed-dev
EXTRAS := .[test,lint,docs]
RUN := .venv/bin/python -m
CLIENTS := $(patsubst tests/envs/udacity/clients/%.txt,.venv/clients/%/installed,$(wildcard tests/envs/udacity/clients/*.txt))

.PHONY: setup train test check docs help
help:
	@echo "make setup   a virtual environment in .venv, ready to train and drive"
	@echo "make train   set up, then train a 19-neuron driver for CarRacing-v3 (the main job)"
	@echo "make test    set up, then run the test suite"
	@echo "make check   lint, types, import rules and doc examples"
	@echo "make docs    the documentation as a site in build/site"

setup: $(ENVIRONMENT)

train: $(ENVIRONMENT)
	$(RUN) liquid_control train --env CarRacing-v3

# Files are shared out between processes, one more than processors: many tests wait for a process that they have started.
# In the order that tests/conftest.py gives, as the files with few tests, which xdist would keep for last, take long.
test: $(DEVELOPMENT) $(CLIENTS)
	$(RUN) pytest --numprocesses $$(.venv/bin/python -c 'import os; print((os.cpu_count() or 1) + 1)') --maxprocesses 8 \
		--dist loadfile --no-loadscope-reorder

check: $(DEVELOPMENT)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/interrogate --verbose --omit-covered-files liquid_control envs agents policies docs examples drive.py
	$(RUN) mypy
	.venv/bin/lint-imports
	$(RUN) pytest --doctest-modules --doctest-glob='*.md' liquid_control envs agents policies README.md docs

# Warnings are errors: a broken link, an unknown name or page. Nothing is fetched, neither here nor by the pages.
docs: $(DEVELOPMENT)
	.venv/bin/python docs/assemble.py
	.venv/bin/zensical build --strict --clean --config-file build/mkdocs.yml
	@echo "To read it: python3 -m http.server --directory build/site --bind 127.0.0.1"

# What is imported is compiled to bytecode then, even where the shell's Python is told to write none: a training needs a
# tenth of what is installed.
unexport PYTHONDONTWRITEBYTECODE

# By uv, which takes seconds where pip takes minutes; where it cannot be had or fails, by pip.
define install
	@command -v uv > /dev/null || .venv/bin/pip install --quiet --only-binary uv $(PIP_FLAGS) --constraint constraints.txt uv || true
	PATH="$$PATH:.venv/bin" uv pip install --quiet --python .venv/bin/python $(PIP_FLAGS) $(1) || \
		.venv/bin/pip install --quiet --no-compile $(PIP_FLAGS) $(1)
endef

# torch comes by pip, whose configuration may name a build that uv would not know of, for example one for the CPU alone.
$(ENVIRONMENT): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "liquid-control needs Python 3.11 or newer; this is %s. Name another: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --no-compile $(PIP_FLAGS) --constraint constraints.txt torch
	$(call install,--constraint constraints.txt --editable .)
	@touch $@

# What tests, lint and the documentation need besides, with the kernels of all drivers.
$(DEVELOPMENT): $(ENVIRONMENT)
	$(call install,--constraint constraints.txt --editable '$(EXTRAS)')
	$(RUN) liquid_control.compile
	@touch $@

# Versions of python-socketio that the bridge is tested with. They exclude each other, so each has a folder of its own.
.venv/clients/%/installed: tests/envs/udacity/clients/%.txt | $(ENVIRONMENT)
	$(call install,--upgrade --target $(@D) --requirement $<)
	@touch $@
