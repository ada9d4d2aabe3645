#!/usr/bin/env bash
# Formatting, lints, and licences and advisories where cargo-deny is installed (`cargo install --locked cargo-deny`).
set -euo pipefail
cd "$(dirname "$0")/.."
e2e/need.sh
cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
# --all-targets leaves out what a plain `cargo test` does.
left_out=$(sed -n '/^name = /{s/.*"\(.*\)"/--test \1/;h};/^test = false/{g;p}' e2e/harness/Cargo.toml)
# shellcheck disable=SC2086 # words on purpose
cargo clippy --workspace $left_out --quiet -- -D warnings
if command -v cargo-deny >/dev/null; then
  cargo deny --log-level warn check
else
  echo "cargo-deny is not installed: licences and advisories were not checked" >&2
fi
