#!/usr/bin/env bash
# Start-up after SIGKILL, at 100 MB and at 2 GB of data: it must not grow with the database.
#
# A command for people, not a gate. For each size it fills one node until its database has that
# size, then a few times: appends for a second, kills the node with SIGKILL in the middle of the
# appends, starts it again, and takes the time from the start of the process to its ready line and
# to the first answer of a read. It also prints the size on disk over the payload.
#
#   tests/startup_time.sh
#   SIZES_MB="100 500" PAYLOAD_BYTES=256 RUNS=5 tests/startup_time.sh
#   COLD=1 tests/startup_time.sh        drop the page cache before each start (root)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SIZES_MB=${SIZES_MB:-100 2048}
PAYLOAD_BYTES=${PAYLOAD_BYTES:-1024}
CLIENTS=${CLIENTS:-128}
RUNS=${RUNS:-3}
COLD=${COLD:-0}
PROFILE=${PROFILE:-release}
PORT=${PORT:-23650}
FILL_SECONDS_MAX=1200

target=${CARGO_TARGET_DIR:-target}
work=${WORK_DIR:-$target/startup}
directory=$PROFILE
[ "$PROFILE" = dev ] && directory=debug
binary=$target/$directory/converge-ledger
load=$target/release/converge-load
address=127.0.0.1:$PORT
node=
client=

say() { printf '%s\n' "$*" >&2; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# SIGKILL, and nothing said about it.
end() {
    [ -n "$1" ] || return 0
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
trap 'end "$client"; end "$node"' EXIT

# Starts the node; sets ready_ms and read_ms.
start_node() {
    local begin line
    begin=$(now_ms)
    exec 3< <(exec "$binary" start --data-dir "$work/data" --grpc "$address" --peer "127.0.0.1:$((PORT + 1))" 2>>"$work/log")
    node=$!
    read -r -t 120 line <&3 || { say "no ready line within 120 s; see $work/log"; exit 1; }
    ready_ms=$(($(now_ms) - begin))
    "$binary" get started --limit 1 --endpoint "http://$address" >/dev/null
    read_ms=$(($(now_ms) - begin))
}

start_load() {
    "$load" run --target converge --endpoints "http://$address" --clients "$CLIENTS" --label fill \
        --payload-bytes "$PAYLOAD_BYTES" --measure-ms "$1" --warmup-ms 0 >/dev/null 2>&1 &
    client=$!
}

status() { "$binary" status --endpoint "http://$address" --output json | grep -o "\"$1\": *[0-9]*" | grep -o '[0-9]*$'; }

# The journal in front of the database has a fixed size; what grows is the database. Its file is
# extended far ahead: blocks that were never written take no room.
database_bytes() { du --block-size=1 --total "$work"/data/*.redb | tail -n 1 | cut -f 1; }
size_mb() { echo $(($(database_bytes) / 1000000)); }

fill() {
    local wanted=$1 deadline=$((SECONDS + FILL_SECONDS_MAX))
    start_load $((FILL_SECONDS_MAX * 1000))
    while [ "$(size_mb)" -lt "$wanted" ]; do
        kill -0 "$client" 2>/dev/null || { say "the load ended early; see $work/log"; exit 1; }
        [ $SECONDS -lt $deadline ] || { say "not $wanted MB within $FILL_SECONDS_MAX s"; exit 1; }
        sleep 0.5
    done
}

cargo build --quiet --release -p converge-load
cargo build --quiet --profile "$PROFILE" --bin converge-ledger
rm -rf "$work"
mkdir -p "$work"
start_node
say "an empty directory: ready after $ready_ms ms, first read after $read_ms ms"
printf '%8s %10s %14s %14s   %-24s %-24s\n' MB entries 'database B' 'disk/payload' 'ready, ms' 'first read, ms'
for size in $SIZES_MB; do
    fill "$size"
    ready= read=
    for run in $(seq "$RUNS"); do
        end "$node" # in the middle of appends
        end "$client"
        if [ "$COLD" = 1 ]; then sync && echo 3 >/proc/sys/vm/drop_caches; fi
        start_node
        ready+="$ready_ms " read+="$read_ms "
        if [ "$run" -lt "$RUNS" ]; then start_load 60000 && sleep 1; fi
    done
    entries=$(status last_position)
    bytes=$(database_bytes)
    ratio=$(awk -v a="$bytes" -v b="$entries" -v p="$PAYLOAD_BYTES" 'BEGIN { printf "%.2f", a / b / p }')
    printf '%8s %10s %14s %14s   %-24s %-24s\n' "$(size_mb)" "$entries" "$bytes" "$ratio" "$ready" "$read"
done
