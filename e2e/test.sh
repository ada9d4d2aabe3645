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
# Lanes run beside each other, each program of a lane after the other. Machines keep a processor busy, waiting keeps none: the
# lanes take about the same time, and a fourth one made all of them slower. The first is all that Cargo runs by itself;
# e2e/harness/Cargo.toml leaves these out of it.
lanes=(
    "--test nodes --test vm"
    "--test attach_edges --test fencing --test migration --test vm_agent"
)
cargo test --workspace --no-run --quiet # and the programs that the tests start
read -ra beside <<<"${lanes[*]}"
cargo test --workspace "${beside[@]}" --no-run --quiet

logs=$(mktemp -d)
running=()
trap 'kill "${running[@]}" 2>/dev/null || true; rm -rf "$logs"' EXIT
# Runs test programs and prints what they print. Every failure of a run is worth seeing: a run takes long. Always the whole
# workspace: for one package alone Cargo chooses other features, and builds all anew.
run() { # name of the log, arguments of cargo test
    local log=$logs/$1
    shift
    cargo test --no-fail-fast --workspace "$@" 2>&1 | tee "$log"
}
step "tests; ${#lanes[@]} lanes run beside these, and their words come last"
status=0
for lane in "${!lanes[@]}"; do
    read -ra programs <<<"${lanes[lane]}"
    run "lane-$lane" "${programs[@]}" >/dev/null &
    running+=($!)
done
run lane-first || status=$?
for lane in "${!lanes[@]}"; do
    step "${lanes[lane]}"
    wait "${running[lane]}" || status=$?
    cat "$logs/lane-$lane"
done
running=()

# Real control planes and virtual machines share two busy cores here, and the sidecars have races of their own. A test program
# that failed runs once more, alone, and is named: what fails twice is broken, what fails once wants a look all the same.
if [ "$status" != 0 ]; then
    mapfile -t failed < <(sed -n 's/^    `-p [^ ]* \(.*\)`$/\1/p' "$logs"/lane-* | sort -u)
    [ ${#failed[@]} -gt 0 ] || { echo "cargo test failed before any test did: look above"; exit 1; }
    for program in "${failed[@]}"; do
        step "once more, alone: $program"
        read -ra arguments <<<"$program"
        run again "${arguments[@]}" || { echo "failed twice: cargo test --workspace $program"; exit 1; }
        echo "UNSTABLE: failed once beside others, passed alone: cargo test --workspace $program"
    done
fi
step "done"
# State of the test clusters is kept for a look after a failure only; the logs stay.
rm -rf "${CARGO_TARGET_DIR:-target}"/e2e/*/etcd
