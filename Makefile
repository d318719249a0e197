# make run [PORT=8765]   install what is missing, then trace a demo guest and show it in the browser
# make test              everything that this machine can run;  test-unit, test-kernel, test-browser: a part of it
# make test-vm           the kernel tests on stock Debian 6.1 and 6.12, each in an emulated machine of its own
# make lint | format     ruff, mypy --strict, clang-format
# make fuzz [FUZZ=20000]   the decoders under hostile bytes, for longer than CI does
# make bench             the figures of the README, measured on this machine (BENCH_ARGS=--update-readme keeps them)
# make lock              deploy/requirements/: every Python package with its version and hashes, made from pyproject.toml
# make audit             ask an advisory database about those packages; says so where none can be reached
# make release-check     whether package, changelog and tag name one version
# make screenshot        frontend/screenshot.png, taken from the real page
# make clean             remove everything that make created in this directory

PORT ?= 8765
PYTEST_ARGS ?=
BENCH_ARGS ?=
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
LOCKS := deploy/requirements
GUEST := $(BIN)/exitscope-guest
GUEST_SOURCES := $(wildcard probes/exitscope_probes/guest/*)
C_SOURCES = $(wildcard probes/exitscope_probes/bpf/*.[ch] probes/exitscope_probes/guest/*.[ch])

# Debian packages. RUN: bcc, the venv, and a compiler for the demo guest.
RUN_PACKAGES := ca-certificates python3-venv python3-bpfcc gcc libc6-dev linux-libc-dev
TEST_PACKAGES := chromium fonts-dejavu-core qemu-system-x86 bpftrace
LINT_PACKAGES := clang-format-14
BENCH_PACKAGES := bpftool bpftrace $(VM_PACKAGES)
# The machines see this one's /usr: what their tests call is installed here.
VM_PACKAGES := qemu-system-x86 busybox-static cpio kmod linux-perf bpftool bpftrace

APT := deploy/apt-install.sh
# An unprivileged `make run` goes on without bcc and the guest: it shows the bundled recording.
RUN_OPTIONAL := $(if $(filter 0,$(shell id -u)),0,1)

.PHONY: run test test-unit test-kernel test-browser test-vm fuzz lint format bench lock audit release-check screenshot clean \
	run-packages test-packages lint-packages bench-packages vm-packages dev

run: $(STAMPS)/server $(GUEST)
	@exec $(BIN)/exitscope demo --port $(PORT)

test: test-packages dev $(GUEST)
	@$(BIN)/pytest $(PYTEST_ARGS)

test-unit: dev
	@$(BIN)/pytest tests/unit $(PYTEST_ARGS)

test-kernel: dev $(GUEST)
	@$(BIN)/pytest tests/kernel $(PYTEST_ARGS)

test-browser: test-packages dev $(GUEST)
	@$(BIN)/pytest tests/browser $(PYTEST_ARGS)

test-vm: vm-packages dev $(GUEST)
	@$(BIN)/pytest tests/vm $(PYTEST_ARGS)

lint: lint-packages dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format-14 --dry-run -Werror $(C_SOURCES)

fuzz: test-packages dev
	EXITSCOPE_FUZZ=$(or $(FUZZ),20000) $(BIN)/pytest -q --timeout 0 -p no:cacheprovider tests/unit/test_fuzz_*.py $(PYTEST_ARGS)

format: lint-packages dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	clang-format-14 -i $(C_SOURCES)

bench: bench-packages test-packages dev $(GUEST)
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

screenshot: test-packages dev $(GUEST)
	@$(BIN)/python -m tests.browser.screenshot frontend/screenshot.png

clean:
	rm -rf $(VENV) build dist exitscope.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find server probes tests -name __pycache__ -type d -prune -exec rm -rf {} +

run-packages:
	@OPTIONAL=$(RUN_OPTIONAL) $(APT) $(RUN_PACKAGES)

test-packages: run-packages
	@OPTIONAL=$(RUN_OPTIONAL) $(APT) $(TEST_PACKAGES)

lint-packages:
	@$(APT) $(LINT_PACKAGES)

bench-packages:
	@$(APT) $(BENCH_PACKAGES)

vm-packages:
	@$(APT) $(VM_PACKAGES)

dev: $(STAMPS)/dev

# Scripts in a venv hold its path: one that came along with a moved or copied checkout is made again.
$(shell [ ! -e $(STAMPS)/venv ] || [ "$$(cat $(STAMPS)/venv)" = "$(CURDIR)" ] || rm -rf $(VENV))

# --system-site-packages: bcc is reached that way.
$(STAMPS)/venv: | run-packages
	@echo "exitscope: creating $(VENV)"
	@$(PYTHON) -m venv --system-site-packages $(VENV) || \
		{ echo "exitscope: no venv without Debian's python3-venv (as root: apt-get install python3-venv)" >&2; exit 1; }
	@mkdir -p $(STAMPS) && echo "$(CURDIR)" >$@

# Only what the lock names, checked by its hashes; then exitscope itself, without looking for anything more.
define pip-install
@{ $(BIN)/pip -q --disable-pip-version-check --no-input install --require-hashes -r $(LOCKS)/$(1).txt && \
	$(BIN)/pip -q --disable-pip-version-check --no-input install --no-deps --no-build-isolation --editable . ; \
	} >$(STAMPS)/pip.log 2>&1 || { grep ERROR: $(STAMPS)/pip.log | tail -n 2 >&2; \
	echo "exitscope: pip could not install $(LOCKS)/$(1).txt (network?); see $(STAMPS)/pip.log" >&2; exit 1; }
@touch $@
endef

$(STAMPS)/server: pyproject.toml $(LOCKS)/server.txt $(STAMPS)/venv
	@echo "exitscope: installing the Python packages"
	$(call pip-install,server)

$(STAMPS)/dev: $(LOCKS)/dev.txt $(STAMPS)/server
	@echo "exitscope: installing the development tools"
	$(call pip-install,dev)

lock: dev
	@deploy/lock.sh $(BIN)/uv $(LOCKS)

audit: dev
	@deploy/audit.sh $(BIN)/pip-audit $(LOCKS)/server.txt

release-check: dev
	@$(BIN)/pytest -q tests/unit/test_packaging.py

# Only the demo and the tests need the guest; where it cannot be built they say so.
$(GUEST): $(GUEST_SOURCES) $(STAMPS)/server
	@if [ "$$(uname -m)" != x86_64 ]; then echo "exitscope: warning: the guest is for x86-64 only" >&2; \
	elif ! command -v cc >/dev/null; then echo "exitscope: warning: no C compiler, so no guest" >&2; \
	else $(BIN)/python -I -m exitscope_probes.guest.build $@; fi
