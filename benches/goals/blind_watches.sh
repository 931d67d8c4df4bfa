#!/usr/bin/env bash
# Two hundred watches whose key matches nothing, on a context of a million entries, beside appends: three nodes on loopback.
#
# A command for people, not a gate. Each watch looks at all entries and finds none. It prints the 99th percentile of appends
# without and with them, and the term, which must not change: the leader leads on.
#
#   benches/goals/blind_watches.sh
#   ENTRIES=100000 WATCHES=50 benches/goals/blind_watches.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

ENTRIES=${ENTRIES:-1000000}
WATCHES=${WATCHES:-200}
CLIENTS=${CLIENTS:-16}
FOR=${FOR:-20s}
port=${FIRST_PORT:-23130}
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/blind-watches-XXXXXX")")
watches=()
trap 'end_watches; stop_nodes; rm -rf "$work"' EXIT
end_watches() { [ ${#watches[@]} -eq 0 ] || kill -KILL "${watches[@]}" 2>/dev/null || true; }

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
start_nodes "$binary" 3
leader=$(leader_of_nodes "$binary" 3)
endpoint=http://127.0.0.1:$((port + leader))
tell_machine

# One context, whose name the report tells. A step is as long as the first one says that it takes.
rate=$("$binary" bench --endpoint "$endpoint" --clients 256 --payload 64 --for 3s --output json | grep -o '"per_second": *[0-9]*' | grep -o '[0-9]*$')
context=$("$binary" bench --endpoint "$endpoint" --clients 256 --payload 64 --contexts 1 --for $((ENTRIES / rate + 1))s --output json |
    grep -o '"contexts": *"[^"]*"' | cut -d '"' -f 4)0
held=$("$binary" get "$context" --limit 1 --endpoint "$endpoint" --output json | grep -o '"latest_sequence": *[0-9]*' | grep -o '[0-9]*$' || true)

measure() {
    local p99
    p99=$("$binary" bench --endpoint "$endpoint" --clients "$CLIENTS" --for "$FOR" --output json | grep -o '"p99_us": *[0-9]*' | grep -o '[0-9]*$')
    echo "| $1 | $p99 | $(status "$binary" term) | $(leader_of_nodes "$binary" 3) |"
}

echo "| $CLIENTS clients, a context of ${held:-?} entries | p99 of appends, µs | term | leader |"
echo "|---|--:|--:|--:|"
measure "no watches"
for _ in $(seq "$WATCHES"); do
    "$binary" watch "$context" --key matches-nothing --endpoint "$endpoint" >/dev/null 2>&1 &
    watches+=($!)
done
measure "$WATCHES watches"
