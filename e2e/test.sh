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
cargo build --workspace --bins
step "tests"
# Every failure of a run is worth seeing: a run takes long.
cargo test --workspace --no-fail-fast
# State of the test clusters is kept for a look after a failure only; the logs stay.
rm -rf "${CARGO_TARGET_DIR:-target}"/e2e/*/etcd
