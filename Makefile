# make prints what there is. Everything that is expensive is kept under $FIRERUNNER_CACHE by content: a second run,
# and a second clone, build none of it again. By default that is ~/.cache/firerunner, and /var/cache/firerunner for
# root: microVMs run as users of their own, who can read an image there but not below /root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# sudo cuts the PATH down; Go is still where its own instructions put it.
export PATH := $(PATH):/usr/local/go/bin

export FIRERUNNER_CACHE ?= $(if $(filter 0,$(shell id -u)),/var/cache/firerunner,$(HOME)/.cache/firerunner)
# Images that make builds and tests boot; the installed daemon's own are in its state_dir.
export FIRERUNNER_IMAGE_DIR ?= $(FIRERUNNER_CACHE)/images

VERSION := $(shell cat VERSION)$(shell git describe --always --dirty --exclude '*' --abbrev=12 2>/dev/null | sed 's/^/+/')
# The guest agent is part of the image's key: its version must not change with every commit.
AGENT_VERSION := $(shell cat VERSION)
RELEASE := -trimpath -buildvcs=false

TEST_TIMEOUT ?= 40m
# SQLite itself is C that a program has translated to Go, in one package: the race detector finds nothing in it, and takes
# half the time of every test with a database. Unpacking is as slow, and shares nothing. Everything around them is looked at.
RACE := -race -gcflags='modernc.org/sqlite/lib=-d=checkptr=0 -race=false' -gcflags='compress/flate=-race=false'
FUZZTIME ?= 10s
SEEDS ?= 2000
FROM ?= 1
BENCH_BOOTS ?= 10
COVERAGE_LEAST ?= 75

.PHONY: help
help: ## Print this list
	@printf 'FireRunner: a microVM for every GitLab CI job.\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: FUZZTIME=%s SEEDS=%s BENCH_BOOTS=%s TEST_TIMEOUT=%s FIRERUNNER_CACHE=%s\n' \
		'$(FUZZTIME)' '$(SEEDS)' '$(BENCH_BOOTS)' '$(TEST_TIMEOUT)' '$(FIRERUNNER_CACHE)'

##### To run it

.PHONY: deps
deps: ## Install the Debian packages that are missing (asks sudo if you are not root)
	@tools/deps.sh run

.PHONY: test-deps
test-deps:
	@tools/deps.sh test

.PHONY: build
build: ## Build bin/firerunner and bin/fireguest, static
	@mkdir -p bin
	CGO_ENABLED=0 go build $(RELEASE) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/firerunner ./cmd/firerunner
	CGO_ENABLED=0 go build $(RELEASE) -ldflags '-s -w -X main.version=$(AGENT_VERSION)' -o bin/fireguest ./cmd/fireguest

.PHONY: gitlab-runner
gitlab-runner: ## Build bin/gitlab-runner for demo and tests: the real one's packages, shell executor only
	test/gitlabrunner/build.sh bin/gitlab-runner

.PHONY: image
image: deps build gitlab-runner ## Build the guest image with it (kept by content)
	bin/firerunner image build --gitlab-runner bin/gitlab-runner

# A plain Debian with sshd and cloud-init, for the tests of provision: ssh.
.PHONY: image-sshd
image-sshd: image
	bin/firerunner image build --name sshd --no-agent --sshd --add-package cloud-init,ifupdown --run test/e2e/testdata/sshd-image.sh

.PHONY: demo
demo: image ## Run a pipeline in real microVMs: emulated GitLab, real gitlab-runner, nothing left behind
	bin/firerunner demo

.PHONY: demo-fleet
demo-fleet: image ## The same on three hosts with a fake flintlockd each, whose microVMs are real
	bin/firerunner demo --hosts 3

##### To change it

.PHONY: check
check: ## Lint, format, tidy, generated files, import graph (govulncheck needs its database from the network: not here)
	@tools/check.sh

.PHONY: test
test: test-deps image-sshd ## Run every test, real microVMs included, with -race; print coverage, fail below 75 %
	@rm -rf build/daemons && mkdir -p build/daemons
	@# What takes longest begins first, beside everything else.
	FIRERUNNER_BIN=$(CURDIR)/bin FIRERUNNER_GITLAB_RUNNER=$(CURDIR)/bin/gitlab-runner FIRERUNNER_COVERDIR=$(CURDIR)/build/daemons \
		go test $(RACE) -timeout $(TEST_TIMEOUT) -covermode=atomic -coverpkg=./... -coverprofile=build/tests.out ./test/e2e ./...
	@# What daemons ran that tests started as processes of their own counts too.
	@go tool covdata textfmt -i=build/daemons -o=build/daemons.out
	@go run -C tools ./coverage -least $(COVERAGE_LEAST) -root $(CURDIR) $(CURDIR)/build/tests.out $(CURDIR)/build/daemons.out

.PHONY: bench
bench: image ## Measure what docs/PERFORMANCE.md quotes (some minutes; on an otherwise idle machine)
	go test -run '^$$' -bench WebhookAck -benchtime 4000x ./bench
	go test -run '^$$' -bench Placement -benchtime 5x ./bench
	go test -run '^$$' -bench JobsPerMinute -benchtime 500x ./bench
	go test -run '^$$' -bench Growth -benchtime 200x ./bench
	go test -run '^$$' -bench Memory -benchtime 1x -timeout 30m ./bench
	go test -run '^$$' -bench Recovery -benchtime 20x -timeout 30m ./bench
	go test -run '^$$' -bench FleetCreates -benchtime 1000x ./bench
	go test -run '^$$' -bench ColdStart -benchtime $(BENCH_BOOTS)x -timeout 30m ./bench
	go test -run '^$$' -bench 'Throughput|Connect' ./internal/network
	go test -run '^$$' -bench 'Update|Read' ./internal/store/sqlite
	go test -run '^$$' -bench Ack -benchtime 4000x ./internal/intake

.PHONY: sim
sim: ## Live through SEEDS courses of events in which everything goes wrong, from FROM on; one seed: its timeline
	go test ./internal/sim -run '^(TestSeeds$(if $(filter 1,$(SEEDS)),,|TestFiveHundredJobs))$$' -count=1 -timeout 24h -v -seeds $(SEEDS) -from $(FROM) -lanes $$(nproc)

.PHONY: chaos
chaos: image ## Kill controllers and microVMs under jobs, real processes all, for SEEDS seeds (3) from FROM on
	go run ./test/chaos -seed $(FROM) -seeds $(if $(filter command\ line environment,$(origin SEEDS)),$(SEEDS),3) $(CHAOS)

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: generate
generate: ## Make generated files again: queries, import graph, drawings in docs
	@tools/generate.sh

.PHONY: format
format: ## Format the Go files
	@"$$(tools/tool.sh golangci-lint)" fmt ./...

.PHONY: clean
clean: ## Remove what make made here (the cache stays)
	rm -rf bin build
