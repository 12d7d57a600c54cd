.DEFAULT_GOAL := help
.SILENT:
.PHONY: help setup build test demo demo-broker bench baseline fuzz lint fmt clean
help: ; @grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20 ## list the targets
setup: ; scripts/setup ## a Docker engine and the sandbox image
build: ; CGO_ENABLED=0 go build -trimpath -o bin/execgate ./cmd/execgate && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/execgate-agent ./cmd/execgate-agent && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/execgate-verify ./cmd/execgate-verify ## bin/execgate, bin/execgate-agent and bin/execgate-verify
test: ; scripts/test ## every check, with real containers
demo: ; scripts/demo ## a gateway and a few executions, start to end
demo-broker: ; scripts/demo-broker ## a program that uses a key it never has, start to end
bench: ; scripts/bench ## executions beside the engine itself, and the benchmarks of each package
baseline: ; scripts/baseline ## store anew what a decision of policy costs
fuzz: ; scripts/fuzz ## every fuzz target, for ten seconds
lint: ; @test -z "$$(gofmt -l . | tee /dev/stderr)" && go vet ./... && if go tool -n staticcheck >/dev/null 2>&1; then go tool staticcheck ./...; fi ## gofmt, go vet, staticcheck
fmt: ; gofmt -w . ## format every Go file
clean: ; rm -rf bin bench/out .cache ## remove what was built
