#!/usr/bin/env bash
# test.sh [check|unit|sim|e2e]: every check and every test, or some of them. Fails loudly, and prints how many tests ran.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTDOCFLAGS="-D warnings"
CLUSTER=e2e/cluster/cluster.sh
DENY=0.20.2
CACHE=${QUORATE_CACHE:-/var/cache/quorate}
count=0

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

check() {
    step "format"
    cargo fmt --all --check
    step "lints"
    cargo clippy --workspace --all-targets --locked -- -D warnings
    step "documentation"
    cargo doc --workspace --no-deps --locked --quiet
    step "licences, sources and duplicates of dependencies"
    deny
}

# Advisories need their database, which a machine without a way out cannot fetch: they are checked where it is there.
deny() {
    local deny=$CACHE/cargo-deny-$DENY/bin/cargo-deny checks=(bans licenses sources)
    if [ ! -x "$deny" ]; then
        echo "building cargo-deny $DENY (minutes, once)"
        cargo install --quiet --locked --root "$CACHE/cargo-deny-$DENY" "cargo-deny@$DENY"
    fi
    if "$deny" --log-level off fetch db >/dev/null 2>&1; then
        checks+=(advisories)
    else
        echo "the database of advisories cannot be fetched here: advisories are NOT checked"
    fi
    "$deny" --locked check "${checks[@]}"
}

unit() {
    step "parts of the cluster that tests use"
    $CLUSTER build
    step "tests"
    local output passed
    output=$(mktemp)
    cargo test --workspace --locked 2>&1 | tee "$output"
    passed=$(awk '/^test result: ok\./ { sum += $4 } END { print sum + 0 }' "$output")
    rm -f "$output"
    if [ "$passed" -eq 0 ]; then
        echo "no test ran" >&2
        exit 1
    fi
    count=$((count + passed))
}

sim() {
    step "simulation"
    # The same histories on every machine; `make sim` draws others.
    $CLUSTER e2e sim --seed 0 --hours "${SIM_HOURS:-200}"
    step "crash sweep of the operator"
    $CLUSTER e2e sweep
}

e2e() {
    step "a cluster"
    if ! $CLUSTER status >/dev/null 2>&1; then
        # What this run started, it stops.
        trap '$CLUSTER down' EXIT
    fi
    $CLUSTER up
    $CLUSTER images
    $CLUSTER install
    step "scenarios on the cluster"
    $CLUSTER e2e scenarios
    count=$((count + $(grep -c '"outcome": "passed"' target/e2e/report.json)))
}

case ${1:-all} in
    check | unit | sim | e2e) "$1" ;;
    all)
        check
        unit
        sim
        e2e
        ;;
    *)
        echo "usage: test.sh [check|unit|sim|e2e]" >&2
        exit 2
        ;;
esac
[ "$count" -eq 0 ] || printf '\n%s tests passed in %s s\n' "$count" "$SECONDS"
