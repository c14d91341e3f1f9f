# All commands of the project. Each target first creates the environments and the wheels that it
# needs, in .venvs/ and dist/.
#
#   make demo      send the example newsletter through a server on this machine, then a campaign
#                  whose runs are killed
#   make test      run the tests that a change must pass: cargo's tests, the fuzz targets, and
#                  pytest with the built wheels. The first interpreter runs all tests of pytest. The
#                  other interpreters run only the tests that depend on the interpreter.
#   make test-all  like `make test`, but every interpreter runs all tests of pytest
#   make fuzz      run each fuzz target for SECONDS seconds (default 10)
#   make soak      run the truth test thousands of times, the tests of outages with outages of a
#                  minute, a campaign with 1,000 kills, a campaign with 200 losses of power, and
#                  each fuzz target for an hour; TRUTH_RUNS, OUTAGE_SECONDS, CAMPAIGN_KILLS,
#                  POWER_CUTS and FUZZ_SECONDS set the numbers
#   make bench     measure rapidsmtp and its competitors; without ARGUMENTS, write the results to
#                  docs/pages/benchmarks.md
#   make lint      check formatting, lints, types and licences of both languages; run `make docs`
#   make docs      write the documentation as pages to site/
#   make wheels    write the compiled wheel and the pure-Python wheel to dist/
#
# BACKENDS=python omits the compiled backend. This value is the default if cargo does not work.
# pytest gets the value of ARGUMENTS, such as ARGUMENTS='-k name'. INTERPRETERS='/path/to/python …'
# names the interpreters for the tests, so that make does not search for them. WORKERS sets the
# number of processes that run the tests.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV RAPIDSMTP_CORE

# Run cargo and rustc to find out whether they work. A search on PATH is not enough, because it also
# finds the shims of rustup when no toolchain is installed.
ifndef BACKENDS
BACKENDS := $(shell cargo --version >/dev/null 2>&1 && rustc --version >/dev/null 2>&1 \
	&& echo both || echo python)
ifeq ($(BACKENDS),python)
$(info cargo does not work: only the pure-Python backend is used)
endif
endif
ifeq ($(filter both python,$(BACKENDS)),)
$(error BACKENDS is '$(BACKENDS)': it must be both or python)
endif
export BACKENDS

# The interpreter that creates the environments and builds the wheels: python3 if it is new enough,
# otherwise the first interpreter in this list that is new enough.
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

# All files and folders of a tree. The removal of a file changes only the modification time of its
# folder. So this list includes the folders, and make rebuilds the wheels after a removal.
tree = $(shell find $(1) -name __pycache__ -prune -o ! -name '*.so' ! -name '*.pyd' -print)
MANIFESTS := pyproject.toml README.md LICENSE
PYTHON_SOURCES := $(MANIFESTS) $(call tree,python)
RUST_SOURCES := Cargo.toml Cargo.lock $(call tree,src)

ifeq ($(BACKENDS),both)
WHEELS := dist/.native $(PURE_WHEEL)
TESTED_WHEEL := dist/rapidsmtp-$(VERSION)-cp311-abi3-*.whl
else
WHEELS := $(PURE_WHEEL)
TESTED_WHEEL := $(PURE_WHEEL)
WITHOUT_RUST := --without-rust
endif

.PHONY: demo test test-all fuzz soak bench lint docs wheels cargo-test interpreters pytest lint-python lint-rust clean FORCE

# Wheels

wheels: $(WHEELS)
	@ls -1 dist/rapidsmtp-$(VERSION)-*.whl

.venvs/build/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -q $$($(@D)/bin/python -c 'import shlex, tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb")); \
		print(*project["build-system"]["requires"], *project["dependency-groups"]["wheels"])')
	touch $@

# The name of the compiled wheel contains the platform and is not known before the build. So the
# target of this rule is a stamp file with a fixed name.
dist/.native: .venvs/build/.ready $(RUST_SOURCES) $(PYTHON_SOURCES) \
		$(if $(wildcard dist/rapidsmtp-$(VERSION)-cp311-abi3-*.whl),,FORCE)
	mkdir -p dist
	rm -f dist/rapidsmtp-*-abi3-*.whl
	.venvs/build/bin/maturin build --release --locked --interpreter $(PYTHON) --out dist
	touch $@

# setuptools builds the pure-Python wheel, with the table [tool.setuptools] of pyproject.toml. It
# builds a copy of the sources, so that it writes no files into the checkout.
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

# Environments: .venvs/NAME-BACKENDS contains one wheel with one of its extras. This wheel is the
# compiled wheel if BACKENDS is both, otherwise the pure-Python wheel. An environment is created
# again if its interpreter was replaced or removed.

# $(call environment,NAME,INTERPRETER,EXTRA)
define environment
venv=.venvs/$(1)-$(BACKENDS); wheel=$$(echo $(TESTED_WHEEL)); \
"$$venv/bin/pip" --version >/dev/null 2>&1 || $(2) -m venv --clear "$$venv"; \
if [ ! "$$venv/.ready" -nt "$$wheel" ] || [ "$$(cat "$$venv/.ready")" != "$$wheel" ]; then \
	"$$venv/bin/pip" install -q --force-reinstall --no-deps "$$wheel"; \
	"$$venv/bin/pip" install -q "$$wheel[$(3)]"; \
	echo "$$wheel" >"$$venv/.ready"; \
fi
endef

# Tests

CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
# Many tests wait for a server or for a time, so there are more tests than cores at a time.
WORKERS ?= $(shell expr 2 '*' $(CORES))
SHARED_OUT = --numprocesses $(WORKERS) --dist worksteal

test: cargo-test fuzz wheels
	@$(call all_interpreters,first)

test-all: cargo-test fuzz wheels
	@$(call all_interpreters,)

# RAPIDSMTP_WHEELS is set only for the first interpreter, so only that interpreter tests the
# packaging. If $(1) is "first", only the first interpreter runs all tests, the last runs the tests
# with the marker `interpreter`, and those in between run the tests with the marker `stdlib`. If $(1)
# is empty, every interpreter runs all tests.
define all_interpreters
interpreters="$${INTERPRETERS:-$$($(PYTHON) tests/interpreters.py)}"; \
last=$$(set -- $$interpreters; shift $$(($$# - 1)); echo "$$1"); \
wheels=$$PWD/dist; selection=; failed=; \
for each in $$interpreters; do \
	[ -z "$$selection" ] || [ "$$each" != "$$last" ] || selection=interpreter; \
	RAPIDSMTP_WHEELS=$$wheels $(MAKE) pytest INTERPRETER=$$each SELECTION="$$selection" \
		|| failed="$$failed $$each"; \
	wheels=; selection=$(if $(1),stdlib); \
done; \
[ -z "$$failed" ] || { echo "failed on:$$failed"; exit 1; }
endef

# The Rust tests. They run without Python, because the feature `python` is off by default.
cargo-test:
ifeq ($(BACKENDS),both)
	cargo test --locked --quiet
endif

# libFuzzer needs LLVM's coverage pass. SANCOV enables this pass by its name. This works with the
# stable compiler too. The option --target is needed so that cargo does not compile build scripts
# with these flags. FUZZ_TARGETS='reply address' selects targets.
SECONDS ?= 10
SANCOV := -Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing \
	$(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
fuzz:
ifeq ($(BACKENDS),both)
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS='$(SANCOV)' cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml \
		--target "$$host"; \
	targets=$${FUZZ_TARGETS:-$$(sed -n 's/^name = "\([a-z_]*\)"/\1/p' fuzz/Cargo.toml)}; \
	printf '%s\n' $$targets | xargs -P $(CORES) -I TARGET \
		fuzz/run "fuzz/target/$$host/release/TARGET" $(SECONDS)
endif

# Run pytest on the interpreter INTERPRETER. If SELECTION is the name of a marker, pytest runs only
# the tests with this marker.
pytest:
	@version=$$($(INTERPRETER) -c 'import platform; print(platform.python_version())'); \
	$(call environment,test-$$version,$(INTERPRETER),test); \
	echo "== pytest on CPython $$version ($(INTERPRETER)), backends: $(BACKENDS)$(SELECTION:%=, tests marked %)"; \
	"$$venv/bin/python" -P -m pytest $(SHARED_OUT) $(WITHOUT_RUST) $(SELECTION:%=-m %) $(ARGUMENTS); \
	$(call oldest_django,$$version)

# Run the tests of the Django backend again, with the oldest supported Django. The environment
# contains the newest Django that the interpreter supports. So the oldest Django is installed in a
# separate folder, and PYTHONPATH names this folder. If ARGUMENTS selects no test of the Django
# backend, pytest exits with status 5 (no tests). This status is not a failure.
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

# Run the truth test many times, then the tests of outages and the fuzz targets. The truth test
# prints its first seed. TRUTH_BASE=SEED repeats the runs from that seed.
soak: wheels
	@$(call environment,soak,$(PYTHON),test); \
	TRUTH_RUNS="$${TRUTH_RUNS:-5000}" "$$venv/bin/python" -P -m pytest $(WITHOUT_RUST) \
		tests/truth -k soak $(ARGUMENTS); \
	OUTAGE_SECONDS="$${OUTAGE_SECONDS:-60}" "$$venv/bin/python" -P -m pytest $(WITHOUT_RUST) \
		tests/outages; \
	CAMPAIGN_KILLS="$${CAMPAIGN_KILLS:-1000}" "$$venv/bin/python" -P -m pytest -s $(WITHOUT_RUST) \
		tests/campaign/test_kills.py -k test_kills_at_random_moments; \
	POWER_CUTS="$${POWER_CUTS:-200}" "$$venv/bin/python" -P -m pytest -s $(WITHOUT_RUST) \
		tests/campaign/test_system_calls.py -k power
	@$(MAKE) fuzz SECONDS="$${FUZZ_SECONDS:-3600}"

interpreters:
	@$(PYTHON) tests/interpreters.py

# The compiled wheel contains both backends, so the benchmarks of both backends run in one
# environment.

bench: wheels
	@$(call environment,bench,$(PYTHON),bench); \
	"$$venv/bin/python" -P -m pytest benches -o addopts='-ra --import-mode=importlib' \
		--benchmark-only $(or $(ARGUMENTS),--write-benchmarks docs/pages/benchmarks.md)
ifeq ($(BACKENDS),both)
	@if grep -qs '^\[\[bench\]\]' Cargo.toml; then cargo bench --locked; fi
endif

# Demonstration

demo: wheels
	@$(call environment,demo,$(PYTHON),demo); \
	"$$venv/bin/rapidsmtp" demo $(ARGUMENTS); \
	"$$venv/bin/rapidsmtp" demo --campaign

# mkdocs builds the documentation from the source tree, so `make docs` needs no wheel. A warning
# stops the build.

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
ifeq ($(BACKENDS),both)
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets --all-features -- -D warnings -D clippy::incompatible_msrv
else
	@echo "lint: only the Python part, because BACKENDS is python"
endif

lint-python: wheels
	@$(call environment,lint,$(PYTHON),dev); set -x; \
	"$$venv/bin/ruff" check .; \
	"$$venv/bin/ruff" format --check .; \
	"$$venv/bin/mypy"; \
	"$$venv/bin/basedpyright" --pythonpath "$$venv/bin/python"; \
	"$$venv/bin/python" -P tests/types/completeness.py; \
	$(if $(WITHOUT_RUST),,"$$venv/bin/python" -P -m mypy.stubtest rapidsmtp._native; \
	cargo metadata --locked --format-version 1 --all-features \
		| "$$venv/bin/python" tests/crate_licences.py)

clean:
	rm -rf .venvs dist build target site fuzz/target fuzz/corpus fuzz/artifacts

FORCE:
