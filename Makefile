# `make` alone lists the targets. Each one installs what it needs, and is quick when nothing is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
need := tests/tools/need
# a suite of its own, from its first test on
conformance := $(if $(wildcard tests/conformance/test_*.py),conformance)

.PHONY: help demo cluster quick check lab-test test long build test-build image manifests sign matrix conformance-table pictures \
	reference site lint lab-shell bench bench-docs clean

# for lab-test
PLUGIN ?= source
packed := $(CURDIR)/dist/ib-sriov

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

demo: ## two pods get an InfiniBand VF each in a virtual machine, talk, and leave no trace
	@$(need) python lab
	@$(PY) -m tests.demo

cluster: ## a Kubernetes cluster of two virtual machines, and the quick start's two pods on it (root or sudo); CLUSTER=containerd2, 2019
	@$(need) python netns lab build cluster$(CLUSTER:%=-%)
	-@packaging/build
	@CLUSTER=$(CLUSTER) IB_SRIOV_PLUGIN=$(packed) $(PY) -m tests.cluster

quick: ## the unit tests alone; half a minute
	@$(need) python
	@$(PY) tests/tools/suites.py unit

check: ## lint, unit, IPAM, namespaces and hostile pods (root or sudo), ADD and DEL in the lab; under ten minutes
	@$(need) python lint netns build lab
	-@packaging/build
	@$(PY) tests/tools/suites.py lint unit ipam netns security main

lab-test: ## one test of the lab: TEST=tests/lab/attach/test_main.py::test_x; PLUGIN=packed calls the build, KERNEL=6.1
	@[ -n "$(TEST)" ] && [ -n "$(filter source packed,$(PLUGIN))" ] || \
		{ echo 'make lab-test TEST=FILE[::NAME] [PLUGIN=source|packed] [KERNEL=5.10|6.1|6.12|newest]' >&2; exit 2; }
	@$(need) python lab $(if $(filter tests/lab/clients% tests/conformance%,$(TEST)),clients)
ifeq ($(PLUGIN),packed)
	@$(need) build
	@packaging/build
endif
	@$(if $(filter packed,$(PLUGIN)),IB_SRIOV_PLUGIN=$(packed)) $(if $(filter tests/lab/udev%,$(TEST)),UDEV=1) \
		tests/lab/pytest '$(TEST)'

test: ## lint, unit, IPAM, a minute of fuzzing, namespaces and hostile pods (root or sudo), docs, the lab; ends with counts
	@$(need) python lint netns manifests build image lab clients
	@mkdir -p .test-results; nice -n 19 $(need) cluster >.test-results/need-cluster.log 2>&1 &
	-@packaging/build
	@$(PY) tests/tools/suites.py lint unit ipam fuzz netns security manifests docs packaging fabric cluster \
		matrix races hca attach faults node clients $(conformance) build matrix-6.1 linux-5.10 linux-newest

long: ## what make test has no time for: soak, agent, udevd, command line, aarch64, an hour of fuzzing, cold builds, more clusters
	@$(need) python netns build image lab lab-aarch64 clients
	@mkdir -p .test-results; nice -n 19 $(need) cluster-containerd2 cluster-full cluster-2019 >.test-results/need-cluster.log 2>&1 &
	-@packaging/build && packaging/image
	@$(PY) tests/tools/suites.py fuzz-long soak agent udev cli aarch64 build-cold cluster-containerd2 cluster-full \
		cluster-2019

build: ## what is released, in dist/: a program for each machine type, wheel, sdist, SBOM, licences
	@$(need) python build
	@packaging/build

test-build: ## the packed program in the place of the source: bare hosts, the lab's attachments, conformance
	@$(need) python build image netns lab clients
	-@packaging/build
	@$(PY) tests/tools/suites.py packaging build-all $(conformance:%=build-%)

image: ## container images, under one name for both machine types, whose entry point installs the packed program into a mounted folder
	@$(need) python build image
	@[ -x dist/ib-sriov-aarch64 ] || packaging/build
	@packaging/image

manifests: ## dist/kubernetes: the overlays with the image by its digest: IMAGE=registry.example/ib-sriov
	@[ -n "$(IMAGE)" ] || { echo 'make manifests IMAGE=registry.example/ib-sriov' >&2; exit 2; }
	@$(need) python build image manifests
	@[ -x dist/ib-sriov-aarch64 ] || packaging/build
	@[ -f dist/ib-sriov-image.digest ] || packaging/image
	@packaging/manifests '$(IMAGE)'

sign: ## dist/SHA256SUMS.sig, by a private ECDSA key (P-256, PEM) that is kept elsewhere: KEY=FILE
	@[ -n "$(KEY)" ] || { echo 'make sign KEY=FILE' >&2; exit 2; }
	@packaging/sign '$(KEY)'

matrix: ## every step of ADD, DEL and GC killed, in both RDMA modes; a part of make test
	@$(need) python build lab
	-@packaging/build
	@$(PY) tests/tools/suites.py matrix

conformance-table: ## docs/conformance.md from the results of the last `make test`
	@tests/conformance/table

pictures: ## docs/pictures: what list and doctor print on a node in the virtual machine, for the README
	@$(need) python lab
	@$(PY) -m tests.demo.pictures

reference: ## docs/cli.md from the help of the commands, the table of keys in docs/configuration.md, docs/doctor.md
	@$(need) python
	@$(PY) tests/tools/reference
	@$(PY) tests/tools/doctor-doc

site: ## the documentation as a site, in build/site
	@$(need) python
	@$(PY) -m mkdocs build --strict --quiet

lint: ## ruff and its formatting, mypy --strict, shellcheck
	@$(need) python lint
	@$(PY) tests/tools/suites.py lint

lab-shell: ## a shell in the virtual machine, with an emulated HCA loaded
	@$(need) python lab
	@tests/lab/shell

bench: ## what one invocation costs, against the Go plugins; under ten minutes
	@$(need) python netns lab
	@tests/bench/run

bench-docs: ## docs/performance.md from the results of the last `make bench`
	@$(PY) tests/bench/report.py

clean: ## remove what was built here (the cache in ~/.cache/ib-sriov stays)
	@rm -rf .venv .test-results .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
