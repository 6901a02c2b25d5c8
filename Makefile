# cri-node: `make` explains the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-builtin-rules --no-print-directory

BIN     := $(CURDIR)/bin
PREFIX  ?= /usr/local
DESTDIR ?=
# kubelet wants a semantic version: this one's, and the commit as build metadata.
VERSION ?= 0.1.0$(shell commit=$$(git rev-parse --short HEAD 2>/dev/null) && echo +g$$commit)

# What runs containers and networks, at the versions we test with.
RUNC_VERSION        := v1.5.2
CNI_PLUGINS_VERSION := v1.9.1
CNI_PLUGINS := main/bridge main/loopback main/ptp main/host-device ipam/host-local ipam/static \
	meta/portmap meta/firewall meta/bandwidth meta/tuning
# Tools that check the code; compiled on first use and kept in bin/tools.
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
PROTOC_GEN_GRPC_VERSION := v1.6.2
# What critest runs several specs at a time with, where its binary names no other.
GINKGO_VERSION      := v2.32.0
# Where govulncheck gets what is known, such as file:///srv/vulndb.
VULN_DB ?= https://vuln.go.dev

VM_PACKAGES  := qemu-system-x86 debootstrap e2fsprogs busybox-static
APT_PACKAGES := debootstrap gcc libc6-dev pkg-config libseccomp-dev crun busybox-static iproute2 nftables iptables skopeo

GO           ?= go
# Cgo is for runc and the race detector only; the program itself has none.
BUILD        := CGO_ENABLED=0 $(GO) build -trimpath
TEST         := CGO_ENABLED=1 $(GO) test -count=1
UNIT_TIMEOUT ?= 20m
E2E_TIMEOUT  ?= 40m
CLUSTER_TIMEOUT ?= 60m
FUZZTIME     ?= 30s
# What `make test` does, in this order.
TEST_STEPS   ?= fmt vet lint unit e2e test-kubelet
# Flags of the daemon for `make run`, such as ARGS="--log-level 4".
ARGS ?=
# More for `make install`, such as INSTALL_ARGS=--start.
INSTALL_ARGS ?=
# Arguments of `make bench` and `make bench-cluster`.
BENCH_ARGS ?=
# For `make critest` and `make test-vm`: the suite's binary, more arguments for it,
# and the registry that has its images (docs/conformance.md).
CRITEST          ?=
CRITEST_ARGS     ?=
CRITEST_HANDLER  ?= runc
CRITEST_PARALLEL ?=
CRITEST_WEBSOCKET ?=
REGISTRY         ?= 127.0.0.1:5000

# Where the machine of `make test-vm` comes from, and how long its smoke test may
# take with the making of the machine.
VM_MIRROR        ?= http://deb.debian.org/debian
VM_SMOKE_TIMEOUT ?= 30m
export VM_MIRROR

# Tests find the daemon, runc and the CNI plugins here.
export CRI_NODE_BIN_DIR := $(BIN)
export CNI_PLUGIN_DIR := $(BIN)/cni
export CRI_NODE_TEST_RUNC := $(BIN)/runc
# What the end-to-end tests may not skip for want of.
export CRI_NODE_REQUIRE ?= root,runc,crun

.PHONY: help
help: ## Show this list.
	@echo "make TARGET, as root on Linux with Go $$(sed -n 's/^go //p' go.mod) or newer:"
	awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: deps build ## Get what is needed, start the daemon here and say what to try next.
	@bash packaging/run.sh $(BIN)/cri-node $(ARGS)

.PHONY: demo
demo: deps build ## Show a pod at work: pull, two containers, log, exec, and away again.
	@$(GO) run ./test/demo

.PHONY: build
build: ## Build bin/cri-node.
	@mkdir -p $(BIN)
	$(BUILD) -ldflags "-X github.com/cri-node/cri-node/cmd/cri-node/early.Version=$(VERSION)" -o $(BIN)/cri-node ./cmd/cri-node

.PHONY: deps
deps: apt $(BIN)/.runc-$(RUNC_VERSION) $(BIN)/.cni-$(CNI_PLUGINS_VERSION) ## Install Debian packages, build runc and the CNI plugins.

# Packages are installed only where missing, so that nothing here needs a
# network or root once they are there.
.PHONY: apt
apt:
	@missing=()
	for package in $(APT_PACKAGES); do
		status=$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null || true)
		[ "$$status" = installed ] || missing+=($$package)
	done
	[ $${#missing[@]} -gt 0 ] || exit 0
	if ! command -v apt-get >/dev/null; then
		echo "This is no Debian: please install the likes of $${missing[*]}, then go on with 'make build'." >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	install=(apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "$${missing[@]}")
	echo "Installing $${missing[*]}"
	# The package lists may be missing or too old to install from.
	"$${install[@]}" >/dev/null 2>&1 </dev/null || { apt-get -o DPkg::Lock::Timeout=300 update -qq; "$${install[@]}" </dev/null; }

# The stamps carry the version, so that a new one is built.
$(BIN)/.runc-$(RUNC_VERSION): | apt
	@echo "Building runc $(RUNC_VERSION)"
	mkdir -p $(BIN)
	GOBIN=$(BIN) CGO_ENABLED=1 $(GO) install -trimpath -tags seccomp -ldflags "-X main.version=$(RUNC_VERSION:v%=%)" \
		github.com/opencontainers/runc@$(RUNC_VERSION)
	touch $@

$(BIN)/.cni-$(CNI_PLUGINS_VERSION):
	@echo "Building CNI plugins $(CNI_PLUGINS_VERSION)"
	mkdir -p $(BIN)/cni
	module=github.com/containernetworking/plugins
	GOBIN=$(BIN)/cni CGO_ENABLED=0 $(GO) install -trimpath -ldflags "-s -w -X $$module/pkg/utils/buildversion.BuildVersion=$(CNI_PLUGINS_VERSION)" \
		$(foreach plugin,$(CNI_PLUGINS),github.com/containernetworking/plugins/plugins/$(plugin)@$(CNI_PLUGINS_VERSION))
	touch $@

.PHONY: test
test: deps build ## Run every test: format, vet, lint, unit (with -race), architecture, end to end.
	@failed=()
	for step in $(TEST_STEPS); do
		echo "== make $$step"
		$(MAKE) $$step || failed+=($$step)
	done
	if [ $${#failed[@]} -gt 0 ]; then
		echo "FAIL: $${failed[*]}"
		exit 1
	fi
	echo "PASS: $(TEST_STEPS)"

.PHONY: fmt
fmt: ## Check that all Go files are formatted.
	@bad=$$(gofmt -l cmd pkg test)
	[ -z "$$bad" ] || { echo "run gofmt -w on:"; echo "$$bad"; exit 1; }

.PHONY: vet
vet: ## Run go vet.
	@$(GO) vet ./cmd/... ./pkg/... ./test/...

.PHONY: unit
unit: ## Run the tests beside the code, with the race detector.
	@$(TEST) -race -timeout $(UNIT_TIMEOUT) ./cmd/... ./pkg/... ./test/architecture/... ./test/bench/...

.PHONY: e2e
e2e: build ## Run the end-to-end tests: real daemon, runtimes, network and registry.
	@$(TEST) -p 1 -timeout $(E2E_TIMEOUT) ./test/e2e/...

# The tests under Kubernetes are a module of their own, and build its programs into
# bin/kubernetes, which takes minutes the first time.
.PHONY: test-kubelet
test-kubelet: build ## Run the tests under a kubelet that is alone, with static pods.
	@cd test/e2e/cluster
	$(TEST) -timeout 15m ./alone

.PHONY: test-cluster
test-cluster: deps build $(BIN)/tools/golangci-lint-$(GOLANGCI_VERSION) ## Run the tests in a Kubernetes cluster (CLUSTER_RUN=regular expression).
	@cd test/e2e/cluster
	$(GO) vet ./...
	$(BIN)/tools/golangci-lint-$(GOLANGCI_VERSION) run ./...
	$(TEST) -v -p 1 -timeout $(CLUSTER_TIMEOUT) $(if $(CLUSTER_RUN),-run "$(CLUSTER_RUN)") ./...

.PHONY: test-conformance
test-conformance: deps build ## Run Kubernetes' own specs of a node, which takes hours (CONFORMANCE_ARGS="-focus=regular expression", docs/conformance.md).
	@cd test/e2e/cluster
	CRI_NODE_CONFORMANCE=1 $(TEST) -vet=off -v -timeout 8h ./conformance -args $(CONFORMANCE_ARGS)

.PHONY: critest
critest: deps build ## Run the validation suite: CRITEST=path (CRITEST_HANDLER=crun, CRITEST_PARALLEL=4, CRITEST_WEBSOCKET=1, CRITEST_ARGS=, REGISTRY=127.0.0.1:5000).
	@$(GO) run ./test/critest -critest "$(CRITEST)" -handler "$(CRITEST_HANDLER)" -registry "$(REGISTRY)" -out $(BIN)/critest -tools $(BIN)/tools -ginkgo $(GINKGO_VERSION) \
		$(if $(CRITEST_PARALLEL),-parallel $(CRITEST_PARALLEL)) $(if $(CRITEST_WEBSOCKET),-websocket) -- $(CRITEST_ARGS)

.PHONY: test-vm
test-vm: deps build ## Run the tests in a virtual Debian with systemd (VM_SMOKE=1, CRITEST=path; see test/vm/run.sh).
	@$(MAKE) apt APT_PACKAGES="$(VM_PACKAGES)"
	payload=$(BIN)/vm/payload
	rm -rf $$payload
	mkdir -p $$payload/bin/programs $$payload/src/test/e2e
	$(MAKE) install DESTDIR=$$payload/install >/dev/null
	cp -RL $(BIN)/cri-node $(BIN)/runc $(BIN)/cni $$payload/bin/
	CGO_ENABLED=0 $(GO) test -c -trimpath -o $$payload/bin/e2e.test ./test/e2e
	$(BUILD) -ldflags '-s -w' -o $$payload/bin/programs/ ./test/e2e/gate ./test/e2e/program ./test/e2e/sweeper
	$(BUILD) -ldflags '-s -w' -o $$payload/bin/critest-run ./test/critest
	cp -r go.mod docs $$payload/src/
	cp test/vm/config.toml $$payload/
	CRITEST="$(CRITEST)" CRITEST_ARGS="$(CRITEST_ARGS)" REGISTRY="$(REGISTRY)" bash test/vm/run.sh $(BIN)/vm

.PHONY: vm-smoke
vm-smoke: ## Run test-vm's smoke test within VM_SMOKE_TIMEOUT; skipped, which it says, where there can be no such machine.
	@skip() { echo "SKIP: vm-smoke: $$1"; exit 0; }
	[ "$$(uname -m)" = x86_64 ] || skip "the machine is one for x86_64"
	[ "$$(id -u)" = 0 ] || skip "it needs root"
	$(MAKE) apt APT_PACKAGES="$(VM_PACKAGES)" || skip "qemu or debootstrap cannot be installed here"
	wget -q -T 20 -t 3 -O /dev/null "$(VM_MIRROR)/dists/bookworm/Release" || skip "$(VM_MIRROR) cannot be reached"
	# The machine ends and reports before the limit for all of it ends qemu, too.
	timeout --kill-after=30 $(VM_SMOKE_TIMEOUT) $(MAKE) test-vm VM_SMOKE=1 VM_TIMEOUT=20m

.PHONY: bench
bench: deps build ## Measure a CRI endpoint, by default a daemon of our own (BENCH_ARGS=-help).
	@$(GO) run ./test/bench $(BENCH_ARGS)

# Builds Kubernetes into bin/kubernetes and containerd into bin/peer the first time.
.PHONY: bench-cluster
bench-cluster: deps build ## Measure cri-node and containerd by turns as kubelet sees them, in a cluster (BENCH_ARGS=-help).
	@cd test/e2e/cluster
	$(GO) run ./bench $(BENCH_ARGS)

.PHONY: check
check: test vuln ## Run test and vuln.

.PHONY: lint
lint: $(BIN)/tools/golangci-lint-$(GOLANGCI_VERSION) ## Run golangci-lint (compiles it on first use, which takes minutes).
	@$< run ./cmd/... ./pkg/... ./test/...

.PHONY: vuln
vuln: $(BIN)/tools/govulncheck-$(GOVULNCHECK_VERSION) ## Look for known vulnerabilities in what we use.
	@$< -db $(VULN_DB) ./...

$(BIN)/tools/golangci-lint-$(GOLANGCI_VERSION):
	@echo "Building golangci-lint $(GOLANGCI_VERSION)"
	mkdir -p $(@D)
	GOBIN=$(@D) CGO_ENABLED=0 $(GO) install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(@D)/golangci-lint $@

$(BIN)/tools/govulncheck-$(GOVULNCHECK_VERSION):
	@echo "Building govulncheck $(GOVULNCHECK_VERSION)"
	mkdir -p $(@D)
	GOBIN=$(@D) CGO_ENABLED=0 $(GO) install -trimpath golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv $(@D)/govulncheck $@

# Run after a change of a .proto file; the result is committed.
.PHONY: generate
generate: ## Make the Go code of the .proto files.
	@$(MAKE) apt APT_PACKAGES=protobuf-compiler
	GOBIN=$(BIN)/tools $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$$($(GO) list -m -f '{{.Version}}' google.golang.org/protobuf)
	GOBIN=$(BIN)/tools $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GRPC_VERSION)
	bash pkg/node/nodev1/generate.sh $(BIN)/tools

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME (30s).
	@grep -rl --include='*_test.go' '^func Fuzz' cmd pkg test | sort | while read -r file; do
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do
			echo "== $$name in $$(dirname $$file)"
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file)
		done
	done

# `make install DESTDIR=/tmp/package` for a package; packaging/install.sh --help.
.PHONY: install
install: deps build ## Install the program, runc, the plugins and the systemd units below PREFIX (/usr/local; INSTALL_ARGS=--start).
	@bash packaging/install.sh --bin $(BIN) --prefix $(PREFIX) $(if $(DESTDIR),--destdir $(abspath $(DESTDIR))) $(INSTALL_ARGS)

.PHONY: uninstall
uninstall: ## Take away what make install has installed; images stay (INSTALL_ARGS=--purge).
	@bash packaging/install.sh --uninstall --prefix $(PREFIX) $(if $(DESTDIR),--destdir $(abspath $(DESTDIR))) $(INSTALL_ARGS)

.PHONY: clean
clean: ## Remove everything that was built.
	@rm -rf $(BIN)
