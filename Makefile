# Everything a change needs, locally and in CI. `make help` lists the targets.

GO      ?= go
TOOL    := GOWORK=off $(GO) tool -modfile=$(CURDIR)/tools/go.mod
MODULES := . chaos bench # every module of go.work; tools/ is not one of them
FUZZ    ?= 5s
RESULTS := bench/results

.PHONY: test
# go mod tidy fetches what the tests of all dependencies need: of the peers and of toxiproxy that is thousands of files, so theirs
# are checked weekly.
test: ## All checks: what CI runs
	@$(MAKE) tidy MODULES=.
	@$(MAKE) vet lint cross unit fuzz

.PHONY: unit
# bench is not raced: what it runs at once is the peers' code and loops that call ours, which the other modules race, and the
# detector would build a dozen SDKs a second time.
unit: ## Tests of every module, in random order: all but bench with the race detector, all but chaos without it
	@set -e; for m in $(filter-out bench,$(MODULES)); do (cd $$m && $(GO) test -race -shuffle=on -timeout 10m ./...); done
	$(GO) test -shuffle=on -timeout 10m .
	cd bench && $(GO) test -shuffle=on -timeout 10m ./...

.PHONY: demo
demo: ## The quickstart: a story against a billing API on loopback, under 30 s
	$(GO) run ./examples/quickstart

.PHONY: bench
# One that fails does not keep the other from being measured, nor the report from telling.
bench: ## Measure the bars and the peers (20 minutes; a quiet machine), keep the raw output, fill the README's tables
	@mkdir -p $(RESULTS)
	@$(GO) test -run '^TestBars$$' -bars -count=1 -timeout 20m . > $(RESULTS)/bars.txt; bars=$$?; \
		grep -v '^raw' $(RESULTS)/bars.txt; \
		$(GO) run ./bench/speed; speed=$$?; \
		$(GO) run ./bench/report && test $$bars = 0 && test $$speed = 0

.PHONY: bench-check
bench-check: ## Measure our ratios again (3 minutes; a quiet machine): none is 25 % above the one that is kept
	$(GO) run ./bench/speed -check

.PHONY: instructions
instructions: ## How many instructions a call takes, by valgrind
	$(GO) run ./bench/instructions

.PHONY: fuzz
# Go 1.26's fuzzing coordinator can report its own -fuzztime as a failure (golang/go#75804, mended in 1.27): a run that ends so,
# and names no failing input, is run again. A finding, or any other failure, is final.
fuzz: ## Each fuzz target for FUZZ (5s); weekly in CI: make fuzz FUZZ=60s
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	fuzz() { $(GO) test -run '^$$' -fuzz "^$$2\$$" -fuzztime $(FUZZ) $$1 >"$$log" 2>&1; status=$$?; cat "$$log"; return $$status; }; \
	raced() { grep -qx ' *context deadline exceeded' "$$log" && ! grep -qE 'Failing input|panic|fatal' "$$log"; }; \
	packages=$$($(GO) list ./...) || exit 1; \
	for pkg in $$packages; do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg) || exit 1; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "fuzz $$pkg $$target"; \
			fuzz $$pkg $$target || { raced && fuzz $$pkg $$target; } || { raced && fuzz $$pkg $$target; } || exit 1; \
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
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13
