#!/usr/bin/env bash
# Starts of one node: in an empty directory, and after SIGKILL in the middle of appends at some sizes of its database. What a
# start takes must not grow with the database.
#
# A command for people, not a gate. It takes the time from the start of the process to its ready line and to the first answer
# of a read, what the directory takes on disk, and the memory that the node holds when it has answered.
#
#   benches/goals/starts.sh                           empty, 100 MB, 2 GB
#   SIZES_MB= RUNS=10 benches/goals/starts.sh         empty directories alone
#   SIZES_MB=10000 PAYLOAD_BYTES=16384 benches/goals/starts.sh
#   COLD=1 benches/goals/starts.sh                    drops the page cache before each start (root)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

SIZES_MB=${SIZES_MB-100 2048}
PAYLOAD_BYTES=${PAYLOAD_BYTES:-1024}
CLIENTS=${CLIENTS:-128}
RUNS=${RUNS:-3}
COLD=${COLD:-0}
FILL_SECONDS_MAX=1200
port=${FIRST_PORT:-23160}
address=127.0.0.1:$((port + 1))
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/starts-XXXXXX")")
loading=
trap 'stop_load; stop_nodes; rm -rf "$work"' EXIT

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# Starts the node; adds to ready, read, memory.
timed_start() {
    local begin line
    if [ "$COLD" = 1 ]; then sync && echo 3 >/proc/sys/vm/drop_caches; fi
    begin=$(now_ms)
    exec 3< <(exec "$binary" start --data-dir "$work/data" --grpc "$address" --peer "127.0.0.1:$((port + 101))" 2>>"$work/node.log")
    pids=($!)
    read -r -t 120 line <&3 || { say "no ready line within 120 s"; tail "$work/node.log" >&2; exit 1; }
    ready+=" $(($(now_ms) - begin))"
    "$binary" get started --limit 1 --endpoint "http://$address" >/dev/null
    read+=" $(($(now_ms) - begin))"
    memory+=" $(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/${pids[0]}/status")"
}

start_load() {
    "$binary" bench --endpoint "http://$address" --clients "$CLIENTS" --payload "$PAYLOAD_BYTES" --warmup 1ms --for "$1s" \
        >/dev/null 2>&1 &
    loading=$!
}

stop_load() {
    [ -z "$loading" ] || kill -KILL "$loading" 2>/dev/null || true
    [ -z "$loading" ] || wait "$loading" 2>/dev/null || true
    loading=
}

# What grows: all but the journal, which stays in front of it. Blocks that were never written take no room.
data_bytes() { du --block-size=1 --total --exclude='journal*' "$work/data" | tail -n 1 | cut -f 1; }
all_mib() { du --block-size=1M --total "$work/data" | tail -n 1 | cut -f 1; }

fill() {
    local deadline=$((SECONDS + FILL_SECONDS_MAX))
    start_load "$FILL_SECONDS_MAX"
    while [ $(($(data_bytes) / 1000000)) -lt "$1" ]; do
        kill -0 "$loading" 2>/dev/null || { say "the load ended early"; tail "$work/node.log" >&2; exit 1; }
        [ $SECONDS -lt $deadline ] || { say "not $1 MB within $FILL_SECONDS_MAX s"; exit 1; }
        sleep 0.5
    done
}

row() { printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$@"; }

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
tell_machine
row "before the start" "entries" "on disk, MiB" "but the journal, ÷ payload" "ready, ms" "first read, ms" "memory, MiB"
row --- --: --: --: --- --- ---
ready='' read='' memory=''
for _ in $(seq "$RUNS"); do
    stop_nodes
    rm -rf "$work/data"
    timed_start
done
row empty 0 "$(all_mib)" – "$ready" "$read" "$memory"
for size in $SIZES_MB; do
    fill "$size"
    ready='' read='' memory=''
    for run in $(seq "$RUNS"); do
        stop_nodes # in the middle of appends
        stop_load
        timed_start
        if [ "$run" -lt "$RUNS" ]; then start_load 60 && sleep 1; fi
    done
    entries=$(status "$binary" last_position)
    ratio=$(awk -v a="$(data_bytes)" -v b="$entries" -v p="$PAYLOAD_BYTES" 'BEGIN { printf "%.2f", a / b / p }')
    row "killed at $size MB" "$entries" "$(all_mib)" "$ratio" "$ready" "$read" "$memory"
done
