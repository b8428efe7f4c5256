#!/usr/bin/env bash
# run.sh [all|resp|valkey]: what others wrote to judge servers of this protocol, against a live store.
#
# QUORATE_STORE=HOST:PORT                 the store; its data is lost. Unset: a store of one replica is started on loopback
# QUORATE_NODE=PROGRAM                    the node to start then; default target/debug/quorate-node
# QUORATE_VALKEY_SOURCE=FOLDER            a source tree of Valkey 8; unset: Debian's source package is fetched
# QUORATE_RESP_COMPATIBILITY=FOLDER       a source tree of tair-opensource/resp-compatibility
# QUORATE_CONFORMANCE_UNITS="unit/type/hash …"   some of the units
#
# Needs tclsh, python3 with venv, curl and xz. Prints a table of scores, writes it to target/conformance/report.md and the logs beside it;
# fails if a test fails that skips.txt does not name.
set -euo pipefail
cd "$(dirname "$0")/../.."
HERE=$PWD/e2e/conformance
OUT=$PWD/target/conformance
CACHE=${QUORATE_CACHE:-/var/cache/quorate}/conformance
UNITS=${QUORATE_CONFORMANCE_UNITS:-unit/type/string unit/type/incr unit/expire unit/keyspace unit/scan unit/multi unit/protocol unit/quit unit/type/hash unit/type/set unit/type/zset unit/type/list}
# Why each of these is left out: docs/conformance.md.
TAGS="-needs:debug -needs:repl -needs:config-maxmemory -needs:save -needs:reset -needs:latency -scripting -slow -large-memory"
VALKEY_TARBALL=https://deb.debian.org/debian/pool/main/v/valkey/valkey_8.0.1+dfsg1.orig.tar.xz
node=
failed=0

finish() {
    if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; fi
    if [ -n "${data:-}" ]; then rm -rf "$data"; fi
}
trap finish EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

answers() { (exec 3<>"/dev/tcp/$1/$2" && printf 'PING\r\n' >&3 && read -r -t 2 line <&3 && [[ $line == +PONG* ]]) 2>/dev/null; }

serves() { (exec 3<>"/dev/tcp/$1/$2" && printf 'GET a\r\n' >&3 && read -r -t 2 line <&3 && [[ $line == \$* ]]) 2>/dev/null; }

start_store() {
    local program=${QUORATE_NODE:-target/debug/quorate-node} replica
    data=$(mktemp -d "$OUT/store.XXXXXX")
    mkdir "$data/data"
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$data/token"
    PORT=$(free_port)
    replica=$(free_port)
    QUORATE_STORE_ID=$(cat /proc/sys/kernel/random/uuid) QUORATE_STORE_NAME=conformance QUORATE_SHARD=0 QUORATE_ORDINAL=0 \
        QUORATE_POD_IP=127.0.0.1 QUORATE_DATA_DIR=$data/data QUORATE_TOKEN_FILE=$data/token QUORATE_CLIENT_PORT=$PORT \
        QUORATE_REPLICA_PORT=$replica QUORATE_HTTP_PORT=$(free_port) NO_COLOR=1 "$program" serve >"$OUT/node.log" 2>&1 &
    node=$!
    HOST=127.0.0.1
    for _ in $(seq 200); do answers "$HOST" "$PORT" && break || sleep 0.1; done
    "$program" bootstrap --token-file "$data/token" --quorum 1/1 "127.0.0.1:$replica"
    for _ in $(seq 200); do serves "$HOST" "$PORT" && return || sleep 0.1; done
    echo "the store does not serve:" >&2
    tail -n 20 "$OUT/node.log" >&2
    exit 1
}

row() { echo "| $1 | $2 | $3 | $4 |" >>"$OUT/report.md"; }

resp() {
    local source=${QUORATE_RESP_COMPATIBILITY:-} venv=$CACHE/venv
    if [ -z "$source" ]; then
        echo "resp-compatibility is in no registry: set QUORATE_RESP_COMPATIBILITY to a clone of github.com/tair-opensource/resp-compatibility" >&2
        exit 1
    fi
    if [ ! -x "$venv/bin/python" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" --quiet install "redis>=5,<6" pyyaml
    fi
    "$venv/bin/python" "$HERE/subset.py" "$source/cts.json" "$HERE/other-tiers.txt" "$OUT/cts.json"
    (cd "$source" && "$venv/bin/python" resp_compatibility.py --host "$HOST" --port "$PORT" --testfile "$OUT/cts.json" --cluster \
        --specific-version 7.2.0 --show-failed) >"$OUT/resp-compatibility.log" 2>&1
    local summary total passed
    summary=$(grep '^Summary' "$OUT/resp-compatibility.log")
    total=$(sed 's/.*total tests: \([0-9]*\).*/\1/' <<<"$summary")
    passed=$(sed 's/.*passed: \([0-9]*\),.*/\1/' <<<"$summary")
    row "resp-compatibility, 7.2, cluster" "$passed" "$((total - passed))" "$(wc -l <"$OUT/cts.skipped" | tr -d ' ')"
    grep '^FailedTest' "$OUT/resp-compatibility.log" || true
    if [ $((passed * 100)) -lt $((total * 95)) ]; then failed=1; fi
}

valkey() {
    local source=${QUORATE_VALKEY_SOURCE:-} unit log skips
    if [ -z "$source" ]; then
        source=$CACHE/valkey
        if [ ! -d "$source/tests" ]; then
            mkdir -p "$source"
            curl -fsSL "$VALKEY_TARBALL" | tar -xJ --strip-components 1 -C "$source"
        fi
    fi
    skips=$OUT/skips
    # The reasons are for people.
    sed -e 's/[[:space:]]*##.*//' -e '/^$/d' "$HERE/skips.txt" >"$skips"
    for unit in $UNITS; do
        log=$OUT/$(tr / - <<<"$unit").log
        # A unit that fails is judged by its log.
        (cd "$source" && ./runtest --host "$HOST" --port "$PORT" --single "$unit" --singledb --cluster-mode --ignore-encoding \
            --ignore-digest --no-latency --timeout 300 --skipfile "$skips" --tags "$TAGS") 2>&1 </dev/null | sed 's/\x1b\[[0-9;]*m//g' >"$log" || true
        local passed wrong skipped
        passed=$(grep -ac '\[ok\]' "$log" || true)
        wrong=$(grep -acE '^\[(err|exception|timeout)\]' "$log" || true)
        skipped=$(grep -acE '\[(skip|ignore)\]' "$log" || true)
        if ! grep -aq 'All tests passed' "$log" && [ "$wrong" -eq 0 ]; then wrong=1; fi
        row "Valkey $unit" "$passed" "$wrong" "$skipped"
        if [ "$wrong" -gt 0 ]; then
            failed=1
            grep -aE '^\[(err|exception|timeout)\]' "$log" || tail -n 5 "$log"
        fi
    done
}

mkdir -p "$OUT" "$CACHE"
printf '| suite | passed | failed | skipped |\n|---|---|---|---|\n' >"$OUT/report.md"
if [ -n "${QUORATE_STORE:-}" ]; then
    HOST=${QUORATE_STORE%:*} PORT=${QUORATE_STORE##*:}
else
    start_store
fi
case ${1:-all} in
    resp) resp ;;
    valkey) valkey ;;
    all)
        resp
        valkey
        ;;
    *)
        sed -n '2,12s/^# \{0,1\}//p' "$HERE/run.sh" >&2
        exit 2
        ;;
esac
cat "$OUT/report.md"
exit "$failed"
