# Every command of the project. `make help` lists them.
#
# Run as root or as a user who may use sudo: the tests and the lab make network namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A user's PATH on Debian lacks the directories of ip, nft and conntrack.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH="$$PATH")
# Cargo builds as the user and runs each test as root.
TEST_RUNNER := $(if $(AS_ROOT),--config 'target."cfg(all())".runner = "sudo -E"')
# Where etcd, kube-apiserver and kubectl are, or shall be put, for tests of the control plane.
export KUBEBUILDER_ASSETS ?= $(CURDIR)/target/kubernetes
CARGO_DENY := target/tools/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2

.PHONY: help
help: ## List these commands.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | column -t -s '|'

.PHONY: packages
packages: # Install missing Debian packages; say which.
	@vagrant/packages.sh

.PHONY: browser
browser: # Install the browser that the page is tested in, unless there is one.
	@command -v chromedriver >/dev/null || vagrant/packages.sh router/tests/veth/browser.txt

.PHONY: build
build: packages ## Build the release binaries, target/release/spillway and spillway-control.
	cargo build --release --locked -p spillway -p spillway-control

.PHONY: demo
demo: build ## Build, start the lab, tell the story in it, clean up.
	$(AS_ROOT) env QUEUES=2 WORKERS=2 vagrant/scenario.sh

.PHONY: demo-underlay-ipv6
demo-underlay-ipv6: build ## Tell the story once more, with tunnels over IPv6.
	$(AS_ROOT) env QUEUES=2 WORKERS=2 vagrant/scenario.sh --underlay 6

.PHONY: demo-kubernetes
demo-kubernetes: build kubernetes ## Tell the control plane's story, with a real API server.
	$(AS_ROOT) vagrant/kubernetes.sh

.PHONY: demo-machines
demo-machines: build kubernetes ## Rehearse the story of the virtual machines, without machines.
	$(AS_ROOT) vagrant/machines/rehearse.sh

.PHONY: test
test: packages browser kubernetes manifests ## Run every test, those that need root too.
	$(AS_ROOT) vagrant/test.sh
	$(AS_ROOT) vagrant/machines/test.sh
	$(MAKE) --no-print-directory tutorials
	cargo $(TEST_RUNNER) test --workspace --locked

# Of the whole workspace, because the tests have the same features then: it is built once for both.
.PHONY: tutorials
tutorials: packages kubernetes ## Run every command of the tutorials; they must print what they say.
	cargo build --workspace --bins --locked
	$(AS_ROOT) env BINARIES="$(CURDIR)/target/debug" vagrant/tutorials/test.sh

.PHONY: test-kernels
test-kernels: packages ## Run steering's tests on other kernels, in emulated machines; minutes.
	vagrant/packages.sh xdp/kernels/packages.txt
	cargo test --locked --no-run -p spillway-xdp --test steering
	xdp/kernels/test.sh "$$(cargo test --locked --no-run -p spillway-xdp --test steering \
	  --message-format json 2>/dev/null | jq -r 'select(.target.name == "steering") | .executable')"

.PHONY: bench
bench: build ## Measure everything and write bench/results; half an hour, on an idle machine.
	cargo build --release --locked -p spillway-bench
	bench/bench.sh

.PHONY: bench-quick
bench-quick: packages ## Hold the engine's instructions against their budget; under two minutes.
	cargo build --release --locked -p spillway-bench
	target/release/spillway-bench instructions
	target/release/spillway-bench engine --measure forwarding --flows 1000,64512 \
	  --distributions uniform --directions forward,reply --bursts 64 --rounds 5

.PHONY: bench-budget
bench-budget: packages ## Make the engine's instructions as they are now the budget.
	cargo build --release --locked -p spillway-bench
	target/release/spillway-bench instructions --update

.PHONY: bench-lab
bench-lab: build ## Compare Spillway end to end with AF_XDP's floor and the kernel; 15 minutes.
	cargo build --release --locked -p spillway-bench
	$(AS_ROOT) target/release/spillway-bench lab $(BENCH_LAB)

.PHONY: bench-control
bench-control: build kubernetes ## Measure the control plane with 10,000 pods; some minutes.
	BINARIES=$(CURDIR)/target/release \
	cargo $(TEST_RUNNER) bench --locked --profile dev -p spillway-control --bench scale

.PHONY: kubernetes
kubernetes: packages # Fetch or build a Kubernetes API server for tests, once.
	control/testing/kubernetes.sh "$(KUBEBUILDER_ASSETS)"

.PHONY: manifests
manifests: packages kubernetes # Check chart, manifests, alerts and dashboard; then in an API server.
	k8s/check.sh
	k8s/python.sh k8s/reference.py --check
	k8s/monitoring/check.sh
	$(AS_ROOT) k8s/cluster.sh

.PHONY: manifests-render
manifests-render: packages ## Write k8s/base anew, from the chart.
	k8s/python.sh k8s/render.py

.PHONY: reference
reference: packages ## Write router/REFERENCE.md and k8s/CRDS.md anew, from the code.
	SPILLWAY_REFERENCE_WRITE=1 cargo test --locked -p spillway --bin spillway cli::reference
	k8s/python.sh k8s/reference.py

.PHONY: rootfs
rootfs: build ## Lay out the image's root file system in target/rootfs, and try it.
	$(AS_ROOT) rm -rf target/rootfs
	$(AS_ROOT) k8s/image/rootfs.sh target/rootfs target/release
	$(AS_ROOT) k8s/image/check.sh target/rootfs
	$(if $(AS_ROOT),$(AS_ROOT) chown -R "$$(id -u):$$(id -g)" target/rootfs)

.PHONY: screenshots
screenshots: build browser ## Take the README's pictures anew, in the lab; two minutes.
	$(AS_ROOT) vagrant/screenshots.sh

.PHONY: lab-up
lab-up: build ## Start the lab with Spillway on its gateway.
	$(AS_ROOT) vagrant/netns.sh up

.PHONY: lab-up-kubernetes
lab-up-kubernetes: build kubernetes ## Start the lab with a Kubernetes API server, for tutorials.
	$(AS_ROOT) vagrant/kubernetes.sh up

.PHONY: lab-down
lab-down: ## Remove the lab.
	$(AS_ROOT) vagrant/netns.sh down

.PHONY: lint
lint: packages $(CARGO_DENY) ## Check format, Clippy, shell scripts, licences, advisories.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	shellcheck vagrant/*.sh vagrant/tutorials/*.sh vagrant/machines/*.sh control/testing/*.sh k8s/*.sh k8s/image/*.sh \
	  k8s/monitoring/*.sh bench/*.sh xdp/kernels/*.sh .ci/run
	$(CARGO_DENY) --locked check licenses bans sources
	$(MAKE) --no-print-directory advisories

.PHONY: advisories
advisories: $(CARGO_DENY) # Needs the RustSec database; fails only on an advisory.
	@if git ls-remote --quiet --exit-code https://github.com/rustsec/advisory-db HEAD >/dev/null 2>&1; \
	then $(CARGO_DENY) --locked check advisories; \
	else echo "advisories: NOT CHECKED: https://github.com/rustsec/advisory-db cannot be reached"; fi

$(CARGO_DENY):
	cargo install --locked --debug --root target/tools cargo-deny@$(CARGO_DENY_VERSION)
