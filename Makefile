# Everything a change needs, locally and in CI. `make help` lists the targets.

GO      ?= go
TOOL    := GOWORK=off $(GO) tool -modfile=$(CURDIR)/tools/go.mod
MODULES := . chaos # every module of go.work; tools/ is not one of them
FUZZ    ?= 5s
RESULTS := bench/results

.PHONY: test
test: tidy vet lint cross unit fuzz ## All checks: what CI runs

.PHONY: unit
unit: ## Tests of every module, with the race detector, in random order
	@set -e; for m in $(MODULES); do (cd $$m && $(GO) test -race -shuffle=on -timeout 10m ./...); done

.PHONY: demo
demo: ## The quickstart: a story against a billing API on loopback, under 30 s
	$(GO) run ./examples/quickstart

.PHONY: bench
bench: ## Measure the bars (minutes; a quiet machine) and keep the raw output
	@mkdir -p $(RESULTS)
	$(GO) test -run '^TestBars$$' -bars -count=1 -timeout 20m . > $(RESULTS)/bars.txt; status=$$?; \
		grep -v '^raw' $(RESULTS)/bars.txt; exit $$status

.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZ (5s); weekly in CI: make fuzz FUZZ=60s
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ) $$pkg; \
		done; \
	done

SOAK ?= 10m

.PHONY: soak
soak: ## The random tests for SOAK (10m), then those on a broken network for as long; prints the seeds
	$(GO) test -race -run '^TestSoak$$' -soak $(SOAK) -count=1 -timeout 0 -v .
	cd chaos && $(GO) test -race -run '^TestSoak$$' -soak $(SOAK) -laps 3 -count=1 -timeout 0 -v .

.PHONY: lint
lint: ## golangci-lint, gofumpt included
	@set -e; for m in $(MODULES); do (cd $$m && $(TOOL) golangci-lint run ./...); done

.PHONY: vet
vet: ## go vet, and go fix has nothing to say
	@set -e; for m in $(MODULES); do cd $(CURDIR)/$$m; $(GO) vet ./...; \
		out=$$($(GO) fix -diff ./...); test -z "$$out" || { echo "$$out"; exit 1; }; \
	done

.PHONY: tidy
tidy: ## go.mod and go.sum are what the code needs
	@set -e; for m in $(MODULES); do (cd $$m && GOWORK=off $(GO) mod tidy -diff); done

.PHONY: cross
cross: ## It compiles elsewhere; 386 also checks the alignment of 64-bit atomics
	GOOS=darwin GOARCH=arm64 $(GO) build ./...
	GOOS=windows GOARCH=amd64 $(GO) build ./...
	GOOS=linux GOARCH=arm64 $(GO) build ./...
	GOOS=linux GOARCH=386 $(GO) vet ./...

.PHONY: format
format: ## gofumpt
	$(TOOL) gofumpt -w .

.PHONY: help
help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10
