#!/usr/bin/env bash
# All that must hold before a change lands. The tests come last, so that their closing lines end the output.
# One alone: cargo test -p e2e --test provisioning NAME_OF_THE_TEST
set -euo pipefail
export RUST_LIB_BACKTRACE=0 # errors of tests say what was seen; where they were made says nothing
cd "$(dirname "$0")/.."
step() { printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"; }
step "what is needed"
e2e/need.sh
step "tools: control plane and sidecars (about 10 minutes the first time, then seconds)"
e2e/tools/build.sh
step "formatting, lints"
e2e/lint.sh
step "documentation builds without warnings"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
step "build"
machines=(--test vm --test vm_agent --test nodes)
cargo build --workspace --bins
cargo test --workspace --no-run --quiet
cargo test --workspace "${machines[@]}" --no-run --quiet
step "tests; those in virtual machines run beside the others, and their words come last"
log=$(mktemp)
cargo test --workspace --no-fail-fast "${machines[@]}" >"$log" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null || true; rm -f "$log"' EXIT
# Every failure of a run is worth seeing: a run takes long.
failed=0
cargo test --workspace --no-fail-fast || failed=1
step "tests in virtual machines"
wait "$beside" || failed=1
cat "$log"
step "done"
[ "$failed" = 0 ] || { echo "some tests failed: look for FAILED above"; exit 1; }
# State of the test clusters is kept for a look after a failure only; the logs stay.
rm -rf "${CARGO_TARGET_DIR:-target}"/e2e/*/etcd
