#!/usr/bin/env bash
# The memory that idle watches take, each of a context of its own, embedded and over gRPC: with all of them, less without.
#
# A command for people, not a gate. Embedded, a watch is a task of the load as well; over gRPC only the node's memory counts.
#
#   benches/goals/watchers.sh                  100,000 embedded, 10,000 over gRPC
#   WATCHES=1000 GRPC_WATCHES=1000 benches/goals/watchers.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

WATCHES=${WATCHES:-100000}
GRPC_WATCHES=${GRPC_WATCHES:-10000}
port=${FIRST_PORT:-23150}
work=$(mktemp -d)
trap 'stop_nodes; rm -rf "$work"' EXIT

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
peak() { awk '/^VmHWM/ { print $2 }' "/proc/$1/status"; }

# The most that an embedded node and its load hold, in KiB: asked as long as the process lives.
embedded() {
    local pid most=0 now
    rm -rf "$work/embedded"
    "$binary" bench --embedded "$work/embedded" --clients 1 --rate 10 --contexts "$WATCHES" --watchers "$1" --for 3s >/dev/null &
    pid=$!
    while now=$(peak "$pid" 2>/dev/null) && [ -n "$now" ]; do
        most=$now
        sleep 0.05
    done
    wait "$pid"
    echo "$most"
}

over_grpc() {
    rm -rf "$work"/converge*
    CONVERGE_LEDGER__GRPC__WATCHES=$((GRPC_WATCHES + 1)) start_nodes "$binary" 1
    "$binary" bench --endpoint "$(endpoints 1)" --clients 1 --rate 10 --contexts "$GRPC_WATCHES" --watchers "$1" \
        --connections 100 --for 3s >/dev/null
    most=$(peak "${pids[0]}")
    stop_nodes
}

row() { awk -v what="$1" -v n="$2" -v with="$3" -v without="$4" 'BEGIN { printf "| %s | %d | %.0f | %.1f |\n", what, n, (with - without) / 1024, (with - without) / n }'; }

echo "| | watches | MiB | KiB each |"
echo "|---|--:|--:|--:|"
row embedded "$WATCHES" "$(embedded "$WATCHES")" "$(embedded 0)"
over_grpc 0
without=$most
over_grpc "$GRPC_WATCHES"
row gRPC "$GRPC_WATCHES" "$most" "$without"
