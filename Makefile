# Berth. `make help` lists the targets; README has the two that matter: demo and test.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
BUILD    := $(CURDIR)/.build
RESULTS  := $(BUILD)/results
PYTHON3  ?= python3
LDFLAGS  := -s -w -X github.com/berthdev/berth/internal/app.Version=$(VERSION)

include kube.mk
include images.mk
include frontend.mk

##@ Main

.PHONY: demo
demo: $(if $(filter fake,$(BERTH_DEMO_PROVIDER)),berth,build) venvs ## Create and attach real clusters with unmodified clients, on this machine (root)
	./demo/demo.sh

.PHONY: test
test: ## Run all tests; needs root for those with real clusters
	./tools/test.sh

.PHONY: build
build: berth libexec images frontend ## Build bin/berth and everything that local clusters run

.PHONY: berth
berth: ## Build bin/berth alone
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/berth ./cmd/berth

##@ Tests, one by one

.PHONY: test-go
test-go: ## Go tests of the main module, with the race detector
	go test -race -skip '^TestLarge' ./...

.PHONY: test-terraform
test-terraform: berth ## Terraform and its azapi provider, built for it; needs terraform
	BERTH_BIN=$(CURDIR)/bin/berth go test -C test/clients/terraform -count=1 -v ./...

.PHONY: lint
lint: ## gofmt, vet
	@out=$$(gofmt -l cmd internal tools bench test kube); if [ -n "$$out" ]; then echo "gofmt would change: $$out"; exit 1; fi
	go vet ./...

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	@set -e; for pkg in $$(grep -rl '^func Fuzz' --include='*_test.go' internal | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$pkg/*_test.go | sed 's/^func //'); do \
			echo "$$pkg $$f"; go test ./$$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; done; done

.PHONY: bench
bench: build ## Measure everything in docs/benchmarks.md; needs root and an idle machine
	./bench/run.sh

.PHONY: generate
generate: ## Write the pages that derive from code: docs/cli.md, docs/errors.md
	go run ./tools/gendocs

.PHONY: conformance
conformance: ## Write docs/conformance.md from the results of the last `make test`
	go run ./tools/conformance -results $(RESULTS)/conformance -gaps tools/conformance/gaps.md -out docs/conformance.md

##@ What the clients' suites need

AZUREML_REQUIREMENTS := test/clients/python/requirements-azureml.txt
AZCLI_REQUIREMENTS   := test/clients/python/requirements-azcli.txt

.PHONY: venvs
venvs: $(BUILD)/venv-azureml/.done $(BUILD)/venv-azcli/.done ## Install the unmodified Python clients below .build

$(BUILD)/venv-azureml/.done: $(AZUREML_REQUIREMENTS)
	./tools/venv.sh $(PYTHON3) $(@D) $<
	@touch $@

$(BUILD)/venv-azcli/.done: $(AZCLI_REQUIREMENTS)
	./tools/venv.sh $(PYTHON3) $(@D) $<
	@touch $@

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .build

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z_-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
