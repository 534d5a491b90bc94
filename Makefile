# SPDX-License-Identifier: GPL-2.0
# Tooling of pte_ref: see README.md, or run make help.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# BUILD: everything that is generated goes there.
BUILD ?= $(CURDIR)/build
# VERSION chooses a version of Linux, ARCH, PAGES and KERNEL a kernel, DEBUG=1 or
# DEBUG=kasan its checks.
ARCH ?= $(patsubst aarch64,arm64,$(shell uname -m))
PAGES ?= 4k
KERNEL ?= pte_ref
# A command is for the shell of the guest: make leaves its dollar signs alone.
override RUN := $(value RUN)
override APPEND := $(value APPEND)
export BUILD ARCH PAGES CPU KERNEL DEBUG LINUX VERSION RUN TIMEOUT RWDIR TREE MEM CPUS APPEND QEMU_OPTS
export ACCEL ATTACK CONFIG JOBS SCALE VIRTME TIME GROUP QUICK BUDGET SEED STRESS STRESS_TIME

S := scripts

.PHONY: help packages source kernel boot demo test test-arm64 tree refresh port series series-build
.PHONY: lint check-all check-off deb check-deb bench faults harm load mm-tests race race-bad race-fixes mutants model litmus pte_waste clean

help:		## this list
	@awk -F':.*## ' '/^[a-z0-9_-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "VERSION=7.2  that version of Linux instead of the newest that is supported"
	@echo "LINUX=/path/to/tree-or-tarball  your own Linux 7.3.y or 7.2.y instead of Debian's"
	@echo "BUILD=$(BUILD)  where everything generated goes"

packages:	## install the Debian packages that are missing (root or sudo)
	@$(S)/packages.sh

source: packages	## fetch Linux; source with and without pte_ref in BUILD/src
	@$(S)/fetch.sh
	@$(S)/apply.sh

kernel: source	## build a kernel: KERNEL=pte_ref|stock DEBUG=1|kasan
	@$(S)/kernel.sh

boot: kernel	## boot it, for a shell or RUN='command': KERNEL= TIMEOUT=seconds RWDIR=dir
	@$(S)/boot.sh

deb:		## installable package of the kernel: CONFIG=lean|cloud|debian|/boot/config-... ARCH=
	@$(S)/deb.sh

demo:		## stock beside pte_ref: tables that real programs keep; SCALE=full for 50 GiB
	@demo/run.sh

test:		## everything that must pass: BUDGET=seconds skips what would not end in time
	@$(S)/test.sh

tree: source	## git tree with one commit per patch in BUILD/tree, to work in
	@$(S)/tree.sh

refresh:	## bring the commits of BUILD/tree (or TREE=) back into this repository
	@$(S)/refresh.sh

port: packages	## try the series on another version of Linux: VERSION=
	@$(S)/port.sh

series: source	## its parts as BUILD/pte_ref-vVERSION-N-PART.mbox for git am, and their letters
	@$(S)/series.sh

series-build: source	## build after each commit, FREE_USER_PTE on and off, x86_64, arm64, UML
	@$(S)/series-build.sh

test-arm64: source	## arm64 on other page sizes, levels, CPUs and machines than make test
	@$(S)/test-arm64.sh

lint: source	## shellcheck, checkpatch, kernel-doc, sparse, W=1
	@$(S)/lint.sh

check-off: source	## FREE_USER_PTE=n: the touched files compile to what stock has
	@$(S)/check-off.sh

check-deb:	## install, boot and remove the lean package in a guest; compile Debian's cloud
	@$(MAKE) deb CONFIG=lean KERNEL=pte_ref
	@$(S)/check-deb.sh
	@$(S)/check-cloud.sh

check-all: source	## what make test has no time for: other kernels, longer checks; bench/CHECKS.md
	@$(S)/check-all.sh

bench:		## what it costs beside stock, against bench/limits: QUICK=1 for fewer rows
	@$(MAKE) kernel KERNEL=stock DEBUG=
	@$(MAKE) kernel KERNEL=pte_ref DEBUG=
	@$(S)/bench.sh

race:		## callers against the free of their table: TIME=seconds GROUP= KERNEL= DEBUG=1|kasan NO_REFS=1
	@$(MAKE) kernel DEBUG=$${DEBUG:-1}
	@$(S)/race.sh

race-bad: source	## a kernel without the fixes of the callers must fail the cases for them: PATCH=
	@$(MAKE) kernel KERNEL=pte_ref DEBUG=1
	@$(S)/race-bad.sh

race-fixes: source	## the same with nothing but the part *fixes*: TIME=seconds WITHOUT=1
	@$(S)/race-fixes.sh

harm: source	## what one process can do to another by its tables, stock beside pte_ref: ATTACK=
	@$(MAKE) kernel KERNEL=stock
	@$(MAKE) kernel KERNEL=pte_ref
	@$(S)/harm.sh

faults: source	## stressors whose allocations fail now and then, on stock and on pte_ref: TIME=seconds
	@$(S)/faults.sh

load: source	## all that writes entries, on the same tables, then stress-ng: TIME= SEED= KERNEL=
	@$(S)/load.sh

mm-tests: source	## Linux's own tests of mm on stock and on pte_ref, compared
	@$(S)/mm-tests.sh

model:		## check the model of the counting, model/pte_ref.pml, and its broken variants
	@$(S)/model.sh

litmus: source	## does the memory model allow what the barriers are there for? model/litmus, herd7
	@$(S)/litmus.sh

mutants: source	## take one argument or fix after the other away: which test fails?
	@$(S)/mutants.sh

pte_waste:	## build ./pte_waste, which says what pte_ref would give back on this machine
	@$(CC) -O2 -Wall -Wextra -o $@ tools/mm/$@.c

clean:		## remove BUILD
	@rm -rf -- "$(BUILD)"
