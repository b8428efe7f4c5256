#!/usr/bin/env bash
# Every check and every test of the workspace. Fails loudly, and prints how many tests ran.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTDOCFLAGS="-D warnings"

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "format"
cargo fmt --all --check
step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
step "documentation"
cargo doc --workspace --no-deps --locked --quiet
step "tests"
output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo test --workspace --locked 2>&1 | tee "$output"
count=$(awk '/^test result: ok\./ { sum += $4 } END { print sum + 0 }' "$output")
if [ "$count" -eq 0 ]; then
    echo "no test ran" >&2
    exit 1
fi
printf '\n%s tests passed in %s s\n' "$count" "$SECONDS"
