# The contributor's menu. `make` alone shows it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# End-to-end tests wait for most of their time: more of them at once than there are cores.
E2E_THREADS ?= 4
# Names (or parts of names) of end-to-end tests to run, all when empty.
E2E ?=
# Options of the benchmark; BENCH=--help lists them.
BENCH ?=

CARGO_DENY_VERSION := 0.20.2
CACHE := $(or $(KUBEWASM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubewasm)
CARGO_DENY := $(CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

# Plugins are a workspace of their own, for another target. Their tests run here, with what they are built with beside them.
PLUGINS := --workspace --locked --manifest-path demos/plugins/Cargo.toml --target-dir $(CACHE)/guests/rust

.PHONY: help
help: ## Show this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the Debian packages that tests and demo need (only missing ones)
	@scripts/setup.sh

# Everything is built for the whole workspace, programs as well as tests. Another choice of packages is another
# choice of their dependencies' features, for which Cargo would build wasmtime anew; `make features` checks that.
.PHONY: build
build: ## Build the kubewasm program, as target/debug/kubewasm
	cargo build --workspace --bins

.PHONY: man
man: ## Write the manual pages of kubewasm to target/man/man1
	cargo build --workspace --bins
	target/debug/kubewasm man target/man/man1

.PHONY: demo
demo: setup build ## Start a cluster with a Wasm node here, and run demos/hello-wasm, demos/http-hello, demos/policies and demos/extensions on it
	@target/debug/kubewasm-demo up

.PHONY: demo-stop
demo-stop: ## Stop what `make demo` started
	@cargo build --quiet --workspace --bins
	@target/debug/kubewasm-demo down

.PHONY: test
test: setup features fmt-check clippy unit e2e ## Formatting, lints, and all tests

.PHONY: ci
ci: test deny ## Everything that CI runs

.PHONY: test-build
test-build:
	cargo build --workspace --all-targets

# Programs of others that tests hold this one against: built before them, so that none waits while another compiles.
.PHONY: test-tools
test-tools: setup
	@tests/cosign/build.sh >/dev/null
	@set -e; for build in tests/tools/*/build.sh; do $$build >/dev/null; done

.PHONY: unit
unit: test-build test-tools ## Tests that need no cluster
	cargo test --workspace --lib --bins --test '[!e]*'
	cargo test $(PLUGINS) --lib --bins

.PHONY: e2e
e2e: test-build test-tools ## End-to-end tests on a real control plane (E2E=name for some of them)
	cargo test --workspace --test e2e -- --test-threads=$(E2E_THREADS) $(E2E)

.PHONY: soak
soak: test-build ## The long tests: a storm of 200 pods and 200 kills each, 1,000 with addresses, 1,000 that compute, hostile guests, a gigabyte through a guest and three through a command, 600 kills in the middle of store work, a watch of a plugin for longer than one lasts, thousands of random lives (some 35 minutes)
	KUBEWASM_STORM_PODS=200 KUBEWASM_STORM_KILLS=200 cargo test --workspace --test e2e -- storm
	KUBEWASM_TEST_PODS=1000 cargo test --workspace --test e2e -- many_pods_have_addresses
	KUBEWASM_TEST_SPINNERS=1000 cargo test --workspace --test e2e -- many_pods_that_compute
	KUBEWASM_TEST_SIZE=full cargo test --workspace --test hostile -- --test-threads=1
	KUBEWASM_TEST_SIZE=full cargo test --workspace --test floods -- large_body
	KUBEWASM_TEST_SIZE=full cargo test --workspace --test registry -- crashes
	KUBEWASM_TEST_SIZE=full cargo test --workspace --test e2e -- podwatch_follows
	KUBEWASM_TEST_SIZE=full cargo test --workspace --test e2e -- bytes_go_through_a_command
	PROPTEST_CASES=4000 cargo test --workspace --lib -- lifecycle::tests::properties

.PHONY: fuzz
fuzz: ## Give what strangers may send to a fuzzer, for FUZZ_SECONDS (60) for each kind of it (FUZZ=name for some kinds)
	@scripts/fuzz.sh $(FUZZ)

.PHONY: bench
bench: setup build ## Start times and memory of pods, HTTP, network, images and files, beside kwok and wasmtime (docs/benchmarks.md)
	cargo build --release -p kubewasm
	@KUBEWASM_BIN=$(CURDIR)/target/release/kubewasm target/debug/kubewasm-bench $(BENCH)

.PHONY: release
release: ## Build the kubewasm program as target/release/kubewasm, optimized
	cargo build --release --workspace --bin kubewasm

.PHONY: image
image: setup release ## Build a container image, as target/image/kubewasm.tar (an archive in the form of OCI)
	@scripts/image.sh

.PHONY: deb
deb: setup release ## Build Debian packages, in target/deb
	@scripts/deb.sh

.PHONY: kind-demo
kind-demo: ## A cluster of kind (Kubernetes in Docker) with a Wasm node in it (docs/kind.md)
	@scripts/kind-demo.sh

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check
	cargo fmt --all --check --manifest-path demos/plugins/Cargo.toml

.PHONY: clippy
clippy:
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy $(PLUGINS) --all-targets -- -D warnings

.PHONY: features
features: ## Check that programs and tests are built with the same features of all dependencies
	@scripts/features.sh

.PHONY: combinations
combinations: ## Check that kubewasm-workload is built with any of its features left out
	@scripts/combinations.sh

.PHONY: lint
lint: features fmt-check clippy deny ## Formatting, lints, and the licences and sources of dependencies

.PHONY: deny
deny: $(CARGO_DENY)
	$< check bans licenses sources
	@# Advisories come from a database on GitHub, and no registry has them as a package: without that, there is
	@# nothing to check against.
	@if timeout 120 $< fetch db >/dev/null 2>&1; then $< check advisories; \
	else echo "advisories: not checked, because https://github.com/RustSec/advisory-db cannot be fetched here"; fi

# Not optimized: it is built once and runs for seconds.
$(CARGO_DENY):
	@echo "building cargo-deny $(CARGO_DENY_VERSION), once ..."
	cargo install --debug --locked --root $(@D)/.. cargo-deny@$(CARGO_DENY_VERSION)
