# The tools are pinned here, not in go.mod, so that users never download them.
GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BIN = $(CURDIR)/bin

.PHONY: all test race lint fmt bench bench-peers bench-short campaign mutants stress nfs-lab fuzz clean

all: test lint

test: ## what the README says
	go test ./...

race:
	go test -race -short ./...

lint: $(BIN)/golangci-lint
	$(BIN)/golangci-lint run --allow-parallel-runners ./...

fmt: $(BIN)/golangci-lint
	$(BIN)/golangci-lint fmt ./...

$(BIN)/golangci-lint: Makefile
	GOBIN=$(BIN) go install $(GOLANGCI_LINT)
	touch $@

BENCHTIME = 1s
bench: ## what one commit, 64 goroutines, a get, a snapshot, a lock cost
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./store ./lockfile ./cmd/recordctl

BENCHFLAGS = -markdown results.md -svg results.svg
bench-peers: ## the same work on SQLite, bbolt, LMDB, ...: needs a C compiler and sqlite3
	cd bench && go run . -check $(BENCHFLAGS)

bench-short: ## the same, tiny: that it runs, and that nobody loses an update
	cd bench && go vet ./... && go run . -short

campaign: ## power losses and schedules, ten times as many as go test
	RECORDSTORE_EFFORT=10 go test -v -run 'TestPowerLoss|TestSchedules|TestFaults' -timeout 60m ./store

mutants: ## break each safety step, and see that a test notices
	go run ./internal/mutants

stress: ## a hundred processes for half a minute
	go run ./cmd/recordctl stress --duration 30s

RUN =
LABFLAGS =
nfs-lab: ## a server and two clients of real NFS in virtual machines; RUN=list lists what can be run
	go run ./internal/nfslab/cmd -run '$(RUN)' $(LABFLAGS)

FUZZTIME = 60s
fuzz:
	go test -run '^$$' -fuzz FuzzMessagePack -fuzztime $(FUZZTIME) ./codec
	go test -run '^$$' -fuzz FuzzJSON -fuzztime $(FUZZTIME) ./codec
	go test -run '^$$' -fuzz FuzzManifest -fuzztime $(FUZZTIME) ./store
	go test -run '^$$' -fuzz FuzzSegment -fuzztime $(FUZZTIME) ./store
	go test -run '^$$' -fuzz FuzzExportedLine -fuzztime $(FUZZTIME) ./cmd/recordctl
	go test -run '^$$' -fuzz FuzzImportedLine -fuzztime $(FUZZTIME) ./cmd/recordctl
	go test -run '^$$' -fuzz FuzzFromJSON -fuzztime $(FUZZTIME) ./cmd/recordctl
	go test -run '^$$' -fuzz FuzzContents -fuzztime $(FUZZTIME) ./lockfile

clean:
	rm -rf $(BIN)
