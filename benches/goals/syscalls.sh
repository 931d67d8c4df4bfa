#!/usr/bin/env bash
# System calls of a leader and of a follower for each append, of three nodes on loopback.
#
# A command for people, not a gate. Tracing makes a node slower, and a faster node batches more: so compare at one client.
# Heartbeats are in it, some hundred calls a second. It needs strace, and the right to trace.
#
#   benches/goals/syscalls.sh                  one client, 10 s
#   CLIENTS=64 FOR=5 benches/goals/syscalls.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

CLIENTS=${CLIENTS:-1}
FOR=${FOR:-10}
port=${FIRST_PORT:-23110}
work=$(mktemp -d)
tracers=()
trap 'kill -INT ${tracers[@]+"${tracers[@]}"} 2>/dev/null || true; stop_nodes; rm -rf "$work"' EXIT

command -v strace >/dev/null || debian strace
binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
start_nodes "$binary" 3
leader=$(leader_of_nodes "$binary" 3)
follower=$((leader % 3 + 1))
endpoint=http://127.0.0.1:$((port + leader))
trace() {
    strace -f -c -U calls,name -o "$work/$1" -p "${pids[$2 - 1]}" 2>"$work/$1.log" &
    tracers+=($!)
    await "strace" grep -q attached "$work/$1.log"
}
trace leader "$leader"
trace follower "$follower"
before=$(status "$binary" last_position)
"$binary" bench --endpoint "$endpoint" --clients "$CLIENTS" --connections 1 --for "${FOR}s" >/dev/null
after=$(status "$binary" last_position)
kill -INT "${tracers[@]}" && wait "${tracers[@]}" 2>/dev/null || true
tracers=()
say "$((after - before)) appends of $CLIENTS client(s), $("$binary" --version)"
awk -v appends=$((after - before)) '
    $1 ~ /^[0-9]+$/ { calls[$2, FILENAME ~ /leader$/] = $1 / appends; if ($2 != "total") names[$2] = 1 }
    END {
        print "| call | leader | follower |\n|---|--:|--:|"
        for (name in names) if (calls[name, 1] >= 0.01 || calls[name, 0] >= 0.01)
            printf "| %s | %.2f | %.2f |\n", name, calls[name, 1], calls[name, 0] | "sort -t \"|\" -k 3 -rn"
        close("sort -t \"|\" -k 3 -rn")
        printf "| all | %.2f | %.2f |\n", calls["total", 1], calls["total", 0]
    }' "$work/leader" "$work/follower"
