# Each target is one line; what it does in detail stands in the script or program that it calls.
.DEFAULT_GOAL := help
# Programs with the features that tests are built with, so that neither builds what the other has built: a test brings them.
AS_TESTED := --workspace --bins --test wire
# Said here, so that the demo that runs is the one that was built, wherever cargo is configured to put it.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
.PHONY: help demo test lint bench model generate tools

help:     ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
demo:     ## a PVC on a simulated RDS, from claim to clean bill, then real pods on two nodes in VMs; KEEP=1 leaves it running, NODES=0 goes without nodes
	@e2e/need.sh && cargo build --quiet $(AS_TESTED) && "$$CARGO_TARGET_DIR/debug/demo"
test:     ## all that must hold: fmt, clippy, docs, unit and end-to-end tests
	@e2e/test.sh
lint:     ## fmt, clippy, and cargo-deny where it is installed
	@e2e/lint.sh
bench:    ## measure, print a table, write target/bench/report.json
	@e2e/need.sh && E2E_PROFILE=release cargo run --quiet --bin bench
model:    ## explore the attachment protocol in larger bounds than make test, write target/model/report.json; some minutes
	cargo run --quiet --bin model
generate: ## write config/crd from the Rust types
	cargo run --quiet --bin crdgen
tools:    ## build the control plane and the sidecars that the tests run
	@e2e/need.sh && e2e/tools/build.sh
