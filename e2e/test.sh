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
# Lanes run beside each other, each program of a lane after the other. The first is all that Cargo runs by itself;
# e2e/harness/Cargo.toml leaves the others out of it. The last one is the nodes in virtual machines, which keep one processor busy; the
# machine of `vm` runs when that lane ends or has ended. All three take about as long.
lanes=(
    ""
    "--test crash_attach --test fencing --test migration --test vm"
    "--test attach_edges --test nodes --test vm_agent"
)
cargo test --workspace --no-run --quiet # and the programs that the tests start
read -ra beside <<<"${lanes[*]}"
cargo test --workspace "${beside[@]}" --no-run --quiet

# The programs in Go that tests start share two processors with a dozen others: handing work from thread to thread costs them more
# than a second processor gives.
export GOMAXPROCS=1
# And collecting garbage less often saves them a tenth of their time, for memory that nobody misses.
export GOGC=400
logs=${CARGO_TARGET_DIR:-target}/e2e/lanes # they stay: what a run said that was stopped is worth reading
mkdir -p "$logs" && rm -f "$logs"/lane-*
running=()
stop() {
    for lane in "${running[@]}"; do kill -- "-$lane" 2>/dev/null || true; done
}
trap stop EXIT
# Runs test programs. Every failure of a run is worth seeing: a run takes long. Always the whole workspace: for one package alone
# Cargo chooses other features, and builds all anew.
run() { cargo test --no-fail-fast --workspace "$@" 2>&1; }
# Runs a lane as a session of its own, between which Linux shares the processors (sched_autogroup): a nice value for the lane as a
# whole, which counts one by one otherwise. An emulated node that waits for its processor takes three times as long for the same,
# and its kubelet burns the other's time meanwhile; what only asks and waits can wait a little longer.
lane() { # nice value, arguments of cargo test
    echo "$1" 2>/dev/null >/proc/self/autogroup || true # a kernel without it
    shift
    run "$@"
}
export -f lane run
step "tests in ${#lanes[@]} lanes; the words of the first as they come, of the others at their end"
status=0
last=$((${#lanes[@]} - 1))
touch "$logs/lane-0" # it is read below, maybe before the lane has got as far as writing to it
for number in "${!lanes[@]}"; do
    read -ra programs <<<"${lanes[number]}"
    setsid bash -c 'lane "$@"' lane $((number == last ? 0 : 7)) "${programs[@]}" >"$logs/lane-$number" &
    running+=($!)
done
tail --pid="${running[0]}" -n +1 -f "$logs/lane-0"
for number in "${!lanes[@]}"; do
    wait "${running[number]}" || status=$?
    [ "$number" != 0 ] || continue
    step "${lanes[number]}"
    cat "$logs/lane-$number"
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
        run "${arguments[@]}" || { echo "failed twice: cargo test --workspace $program"; exit 1; }
        echo "UNSTABLE: failed once beside others, passed alone: cargo test --workspace $program"
    done
fi
step "done"
# State of the test clusters is kept for a look after a failure only; the logs stay.
rm -rf "${CARGO_TARGET_DIR:-target}"/e2e/*/etcd
