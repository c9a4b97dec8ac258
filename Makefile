# make check   everything that must be clean before landing; writes nothing
# make test    all tests, the real clients and the kill tests among them
# make simulate  the replicated core under 300 seeds of crashes, partitions and lost writes
# make planted  proof that tests see bugs: known ones, planted for it, in a build of its own
# make chaos   fault runs of some minutes: replicas killed, frozen and parted, histories judged
# make chaos-long  hours of fault runs; goes on where it was interrupted, and writes the report
# make conformance   the policy engine against captures of Tailscale's service
# make run     three replicas on loopback behind one port
# make bench   the figures of the README, from a release build
# make bench-failover  what writers notice of faults, beside etcd; about 35 minutes
# make bench-snapshot  what a snapshot of 100,000 nodes costs; about 5 minutes
# make bench-policy  times, instructions and memory of the policy engine
#
# Whatever is missing is installed first, on Debian as root; elsewhere the line to run is printed.
# HYDRASCALE_TEST_CACHE holds the build, tools and client wheels, so that checkouts share them.

SHELL := /bin/bash
HYDRASCALE_TEST_CACHE ?= $(HOME)/.cache/hydrascale
CARGO_TARGET_DIR ?= $(HYDRASCALE_TEST_CACHE)/target
CRASH_ROUNDS ?= 200
# What the archive depends on: the version, and the flags that every build shares.
ROCKSDB_KEY := $(shell cat .cargo/config.toml <(grep -A2 'name = "librocksdb-sys"' Cargo.lock) | sha256sum | cut -c1-16)
ROCKSDB_LIB_DIR ?= $(HYDRASCALE_TEST_CACHE)/rocksdb/$(ROCKSDB_KEY)
ROCKSDB_STATIC ?= 1
export HYDRASCALE_TEST_CACHE CARGO_TARGET_DIR ROCKSDB_LIB_DIR ROCKSDB_STATIC

STAGE := .ci/stage
CARGO_DENY := $(HYDRASCALE_TEST_CACHE)/tools/bin/cargo-deny
SERVER := $(CARGO_TARGET_DIR)/debug/hydrascale

.DEFAULT_GOAL := help
.PHONY: help check test simulate planted chaos chaos-long conformance run bench bench-failover bench-snapshot bench-policy crash-loop build setup-build setup-test setup-tools

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 15

check: setup-build setup-tools
	@$(STAGE) format cargo fmt --all --check
	@$(STAGE) clippy cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(STAGE) docs cargo doc --locked --workspace --no-deps
	@$(STAGE) deny $(CARGO_DENY) --locked check licenses bans sources

# Binaries and tests in one go: cargo resolves features over everything that it is asked to build,
# so that a binary built alone would be compiled once more.
test: setup-build setup-test
	@$(STAGE) test-build cargo build --locked --workspace --bins --tests
	@$(STAGE) tests cargo test --locked --workspace

# SEED=N SEEDS=1 repeats one; BUG=name plants a known bug (raft/src/planted.rs) in this test build,
# which must come out red.
simulate: setup-build
	@$(STAGE) simulate-build cargo test --locked --workspace --lib --no-run
	@HYDRASCALE_SIM_SEED=$(SEED) HYDRASCALE_SIM_SEEDS=$(or $(SEEDS),300) HYDRASCALE_PLANTED_BUG=$(BUG) \
		$(STAGE) simulate cargo test --locked --workspace --lib -- simulation::tests::nothing --nocapture

# What sees which planted bug, and after how many seeds, as a table; fails when one is missed. With
# its replicas: HYDRASCALE_PLANTED_BUG=name $(PLANTED_DIR)/debug/chaos run --nemesis kill-leader,halves
# The build is long at first and has a folder of its own, so that no other build takes place again.
PLANTED_DIR := $(CARGO_TARGET_DIR)/planted
PLANTED := --locked --workspace --features hydrascale/planted-bugs --target-dir $(PLANTED_DIR)
planted: setup-build
	@$(STAGE) planted-build cargo build $(PLANTED) --bins
	@$(STAGE) planted-test-build cargo test $(PLANTED) --lib --no-run
	@$(STAGE) planted cargo test $(PLANTED) --lib -- --include-ignored --nocapture planted_bug

# Optional: SEED=N for the runs of a seed again.
chaos: setup-build
	@.ci/packages test
	@$(STAGE) chaos-build cargo build --locked --workspace --bins --tests
	@$(STAGE) chaos .ci/chaos $(CARGO_TARGET_DIR)/debug/chaos $(SEED)

# Optional: RUNS=N SEED=N; what each commit has done, and histories that are not green, are in the
# cache: runs of another commit are made again.
chaos-long: setup-build
	@.ci/packages test
	@$(STAGE) chaos-build cargo build --locked --workspace --bins --tests
	@$(STAGE) chaos-long $(CARGO_TARGET_DIR)/debug/chaos long --report chaos-tests/REPORT.md \
	  --folder $(HYDRASCALE_TEST_CACHE)/chaos-long $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

# Without the data (HYDRASCALE_CONFORMANCE_DIR, else ../shared/conformance) it says so and passes.
conformance: setup-build
	@cargo test --locked --workspace --lib policy::conformance -- --nocapture

run: setup-build build
	@exec $(SERVER) demo

crash-loop: setup-build setup-test
	@$(STAGE) test-build cargo build --locked --workspace --bins --tests
	HYDRASCALE_CRASH_ROUNDS=$(CRASH_ROUNDS) cargo test --locked -p hydrascale-chaos-tests --test crash

bench: setup-build
	@.ci/packages test
	@$(STAGE) bench-build cargo build --locked --release --bin hydrascale -p hydrascale -p hydrascale-chaos-tests --bin hs-figures
	@$(STAGE) bench $(CARGO_TARGET_DIR)/release/hs-figures

# FILTER: words of the scenarios to run, such as "leader kills". DATA: the folder that the replicas'
# data goes into; one in memory (/dev/shm) shows what faults cost without what the disk adds.
bench-failover: setup-build
	@.ci/packages test
	@.ci/packages bench
	@$(STAGE) bench-build cargo build --locked --release --bin hydrascale -p hydrascale -p hydrascale-chaos-tests --bin hs-failover
	@$(if $(DATA),TMPDIR=$(DATA)) $(STAGE) bench $(CARGO_TARGET_DIR)/release/hs-failover $(if $(FILTER),"$(FILTER)")

bench-snapshot: setup-build
	@.ci/packages test
	@$(STAGE) bench-build cargo build --locked --release --bin hydrascale -p hydrascale -p hydrascale-chaos-tests --bin hs-snapshot
	@$(STAGE) bench $(CARGO_TARGET_DIR)/release/hs-snapshot

bench-policy: setup-build
	@.ci/bench-policy

build: setup-build
	@$(STAGE) build cargo build --locked --bin hydrascale

setup-build:
	@.ci/packages build
	@$(STAGE) rocksdb .ci/rocksdb

setup-test:
	@.ci/packages test
	@.ci/clients

setup-tools:
	@.ci/tools
