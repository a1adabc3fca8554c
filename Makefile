# Farside. 'make run' on a new machine ends with a running pair of units; 'make test' is what CI runs.

CARGO  ?= cargo
DIR    ?= ./farside-data
BINARY := target/release/farside

# Programs the tests use, as program:package. Only what is missing gets installed.
TEST_PROGRAMS := nbdkit:nbdkit nbdinfo:libnbd-bin nbdfuse:libnbd-bin nbd-client:nbd-client nbd-server:nbd-server \
  fio:fio qemu-img:qemu-utils mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs fusermount3:fuse3 ip:iproute2 \
  iscsi-test-cu:libiscsi-bin nft:nftables strace:strace jq:jq patch:patch valgrind:valgrind

# What the power cuts in a virtual machine need; without it they are skipped and say so.
VM_PROGRAMS := qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio modprobe:kmod

# What kernels need that are hosts there.
HOST_PROGRAMS := iscsid:open-iscsi nbd-client:nbd-client mkfs.xfs:xfsprogs fstrim:util-linux

# What the benchmark measures Farside beside, and what one of its scenarios needs. It leaves out what is not there.
BENCH_PROGRAMS := nbdkit:nbdkit qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common nbd-server:nbd-server \
  tgtd:tgt iscsi-inq:libiscsi-bin strace:strace

.PHONY: run build test sim canaries deps run-deps lint man soak bench cost fuzz clean

run: run-deps build
	$(BINARY) up $(DIR)

build:
	$(CARGO) build --release --locked --bin farside

test: deps
	$(CARGO) build --locked --bin farside
	$(CARGO) test --workspace --locked --no-fail-fast

# One world with its trace: make sim SEED=7. Many worlds with their figures: make sim SEEDS=100000.
SEEDS ?= 10000
sim:
	$(CARGO) run --quiet --profile sim --locked -p farside-sim -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# Manual pages and shell completions, into target/man.
man:
	$(CARGO) run --release --locked --bin farside -- man target/man

# Bugs planted one at a time in a copy: the simulator has to find each. make canaries NAMES="sync-forgotten" for some.
canaries:
	@deploy/install-missing.sh patch:patch
	CARGO=$(CARGO) tests/canaries/run.sh $(NAMES)

soak: deps build
	tests/soak.sh

# Side by side with other servers; all of it takes more than an hour. make bench BENCH="--quick" for a look.
BENCH ?=
bench: run-deps build
	@deploy/install-missing.sh python3:python3 fio:fio
	@for each in $(BENCH_PROGRAMS); do deploy/install-missing.sh $$each || true; done
	python3 tests/bench $(BENCH)

# Instructions and allocations of one request, below valgrind, beside the figures that are kept in tests/cost/counts.toml.
# make cost COST=--keep keeps new ones.
COST ?=
cost: run-deps
	@deploy/install-missing.sh valgrind:valgrind
	$(CARGO) run --quiet --release --locked -p farside-cost -- measure $(COST)

# Coverage-guided fuzzing of every decoder and file, TIME seconds for each target. libFuzzer is C++.
TIME ?= 60
fuzz:
	@deploy/install-missing.sh c++:g++
	tests/fuzz/run.sh $(TIME)

clean:
	$(CARGO) clean

# A C linker is all the Rust build needs besides Rust itself.
run-deps:
	@deploy/install-missing.sh cc:gcc
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs and run this again" >&2; exit 1; }

deps:
	@deploy/install-missing.sh cc:gcc $(TEST_PROGRAMS)
	@deploy/install-missing.sh $(VM_PROGRAMS) || echo "no virtual machine here: its tests will be skipped" >&2
	@deploy/install-missing.sh $(HOST_PROGRAMS) || echo "no initiators here: their tests will be skipped" >&2
