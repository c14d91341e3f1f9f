# The only place that knows commands. Each target does its own set-up, in .venvs/ and dist/.
#
#   make demo     send the example newsletter through a server on this machine
#   make test     cargo's tests, then pytest on every suitable interpreter, over the built wheels
#   make soak     thousands of runs of the truth test; TRUTH_RUNS says how many
#   make bench    the benchmarks, beside smtplib
#   make lint     formatting, lints and types of both languages
#   make docs     the reference, as pages in site/
#   make wheels   the compiled wheel and the pure one, in dist/
#
# HALVES=python leaves the compiled half out, as a machine without a working cargo does.
# ARGUMENTS='-k name' goes to pytest; INTERPRETERS='/path/to/python …' overrides the search;
# WORKERS says how many processes share the tests.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV RAPIDSMTP_CORE

# cargo is known by running it: a shim on PATH may have no toolchain behind it.
ifndef HALVES
HALVES := $(shell cargo --version >/dev/null 2>&1 && rustc --version >/dev/null 2>&1 \
	&& echo both || echo python)
ifeq ($(HALVES),python)
$(info no working cargo: the pure-Python half alone)
endif
endif
ifeq ($(filter both python,$(HALVES)),)
$(error HALVES is '$(HALVES)': it must be both or python)
endif
export HALVES

# python3 where it is new enough, else the first other interpreter that is.
ifndef PYTHON
PYTHON := $(shell for each in python3 python3.1{9,8,7,6,5,4,3,2,1} \
		$${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.*/bin/python3 /usr/local/bin/python3.* /opt/*/bin/python3; do \
	"$$each" -I -c 'import sys, ensurepip, venv; \
	sys.version_info < (3, 11) and sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)
ifeq ($(PYTHON),)
$(error Python 3.11 or newer, with venv, is needed: python3 is $(shell python3 --version 2>&1))
endif
endif
export PYTHON

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -n 1)
PURE_WHEEL := dist/rapidsmtp-$(VERSION)-py3-none-any.whl

# Folders are among the sources so that a file's removal is seen as well.
tree = $(shell find $(1) -name __pycache__ -prune -o ! -name '*.so' ! -name '*.pyd' -print)
MANIFESTS := pyproject.toml README.md LICENSE
PYTHON_SOURCES := $(MANIFESTS) $(call tree,python)
RUST_SOURCES := Cargo.toml Cargo.lock $(call tree,src)

ifeq ($(HALVES),both)
WHEELS := dist/.native $(PURE_WHEEL)
TESTED_WHEEL := dist/rapidsmtp-$(VERSION)-cp311-abi3-*.whl
else
WHEELS := $(PURE_WHEEL)
TESTED_WHEEL := $(PURE_WHEEL)
WITHOUT_RUST := --without-rust
endif

.PHONY: demo test soak bench lint docs wheels cargo-test interpreters pytest lint-python lint-rust clean FORCE

# Wheels

wheels: $(WHEELS)
	@ls -1 dist/rapidsmtp-$(VERSION)-*.whl

.venvs/build/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -q $$($(@D)/bin/python -c 'import shlex, tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb")); \
		print(*project["build-system"]["requires"], *project["dependency-groups"]["wheels"])')
	touch $@

# The compiled wheel's name holds the platform, which maturin finds out: hence a stamp.
dist/.native: .venvs/build/.ready $(RUST_SOURCES) $(PYTHON_SOURCES) \
		$(if $(wildcard dist/rapidsmtp-$(VERSION)-cp311-abi3-*.whl),,FORCE)
	mkdir -p dist
	rm -f dist/rapidsmtp-*-abi3-*.whl
	.venvs/build/bin/maturin build --release --locked --interpreter $(PYTHON) --out dist
	touch $@

# From the same pyproject.toml, through its [tool.setuptools] table; in a copy, so that the
# checkout stays clean.
$(PURE_WHEEL): .venvs/build/.ready $(PYTHON_SOURCES)
	mkdir -p dist
	rm -f dist/rapidsmtp-*-py3-none-any.whl
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R $(MANIFESTS) python "$$copy"; \
	find "$$copy" \( -name '_native*.so' -o -name '_native*.pyd' \) -delete; \
	build=$$PWD/.venvs/build/bin/python; out=$$PWD/dist; cd "$$copy"; \
	"$$build" -c 'import sys; from setuptools import build_meta; \
		build_meta.build_wheel(sys.argv[1])' "$$out" >"$$copy/log" 2>&1 || { cat "$$copy/log"; exit 1; }
	touch $@

# Environments: .venvs/NAME with the wheel of the chosen halves and one of its extras. A venv is
# made anew where its interpreter is another one or gone.

# $(call environment,NAME,INTERPRETER,EXTRA)
define environment
venv=.venvs/$(1)-$(HALVES); wheel=$$(echo $(TESTED_WHEEL)); \
"$$venv/bin/pip" --version >/dev/null 2>&1 || $(2) -m venv --clear "$$venv"; \
if [ ! "$$venv/.ready" -nt "$$wheel" ] || [ "$$(cat "$$venv/.ready")" != "$$wheel" ]; then \
	"$$venv/bin/pip" install -q --force-reinstall --no-deps "$$wheel"; \
	"$$venv/bin/pip" install -q "$$wheel[$(3)]"; \
	echo "$$wheel" >"$$venv/.ready"; \
fi
endef

# Tests

WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
SHARED_OUT = --numprocesses $(WORKERS) --dist worksteal

test: cargo-test wheels
	@interpreters="$${INTERPRETERS:-$$($(PYTHON) tests/interpreters.py)}"; \
	wheels=$$PWD/dist; failed=; \
	for each in $$interpreters; do \
		RAPIDSMTP_WHEELS=$$wheels $(MAKE) pytest INTERPRETER=$$each || failed="$$failed $$each"; \
		wheels=; \
	done; \
	[ -z "$$failed" ] || { echo "failed on:$$failed"; exit 1; }

# The core, without Python and without PyO3.
cargo-test:
ifeq ($(HALVES),both)
	cargo test --locked --quiet
endif

# One interpreter, named by INTERPRETER; the first is given the wheels, to test the packaging.
pytest:
	@version=$$($(INTERPRETER) -c 'import platform; print(platform.python_version())'); \
	$(call environment,test-$$version,$(INTERPRETER),test); \
	echo "== pytest on CPython $$version ($(INTERPRETER)), halves: $(HALVES)"; \
	"$$venv/bin/python" -P -m pytest $(SHARED_OUT) $(WITHOUT_RUST) $(ARGUMENTS); \
	$(call oldest_django,$$version)

# The environment has the newest Django that the interpreter takes; the oldest lies in a folder of
# its own, before it on the path. ARGUMENTS may be about other tests: none to run (5) is no failure
# then.
define oldest_django
django=$$("$$venv/bin/python" tests/django_backend/oldest.py); older=.venvs/django-$$django-$(1); \
if [ ! -e "$$older/.ready" ]; then \
	rm -rf "$$older"; \
	"$$venv/bin/pip" install -q --target "$$older" "Django~=$$django"; \
	touch "$$older/.ready"; \
fi; \
echo "== pytest on CPython $(1) with Django $$django"; \
PYTHONPATH=$$PWD/$$older DJANGO=$$django "$$venv/bin/python" -P -m pytest $(SHARED_OUT) $(WITHOUT_RUST) \
	tests/django_backend $(ARGUMENTS) || [ $$? = 5 -a -n '$(ARGUMENTS)' ]
endef

# Prints the seed that it begins with; TRUTH_BASE begins there again.
soak: wheels
	@$(call environment,soak,$(PYTHON),test); \
	TRUTH_RUNS="$${TRUTH_RUNS:-5000}" "$$venv/bin/python" -P -m pytest $(WITHOUT_RUST) \
		tests/truth -k soak $(ARGUMENTS)

interpreters:
	@$(PYTHON) tests/interpreters.py

# Benchmarks: the release wheel. Both halves are in the compiled one.

bench: wheels
	@$(call environment,bench,$(PYTHON),bench); \
	"$$venv/bin/python" -P -m pytest benches -o addopts='-ra --import-mode=importlib' \
		--benchmark-only $(ARGUMENTS)
ifeq ($(HALVES),both)
	@if grep -qs '^\[\[bench\]\]' Cargo.toml; then cargo bench --locked; fi
endif

# Demonstration

demo: wheels
	@$(call environment,demo,$(PYTHON),demo); \
	"$$venv/bin/rapidsmtp" demo $(ARGUMENTS)

# Documentation: read from the source tree, so that neither wheels nor halves are needed. A warning
# ends it.

.venvs/docs/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -q $$($(@D)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["docs"])')
	touch $@

docs: .venvs/docs/.ready
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict -f docs/mkdocs.yml 2>&1 \
		| sed '/^INFO/d'
	@echo "docs: site/index.html"

# Lints

lint: lint-rust lint-python docs

lint-rust:
ifeq ($(HALVES),both)
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --all-targets --features python -- -D warnings
else
	@echo "lint: the Python part alone"
endif

lint-python: wheels
	@$(call environment,lint,$(PYTHON),dev); set -x; \
	"$$venv/bin/ruff" check .; \
	"$$venv/bin/ruff" format --check .; \
	"$$venv/bin/mypy"; \
	"$$venv/bin/basedpyright" --pythonpath "$$venv/bin/python"; \
	"$$venv/bin/python" -P tests/types/completeness.py; \
	$(if $(WITHOUT_RUST),,"$$venv/bin/python" -P -m mypy.stubtest rapidsmtp._native)

clean:
	rm -rf .venvs dist build target site

FORCE:
