#!/usr/bin/env bash
# What a ledger takes on the disk for each byte of payload, at some sizes of payload; the journal's files, which do not grow,
# are told apart. It should be little more than one.
#
# A command for people, not a gate. The node is stopped in order before its files are looked at, so nothing waits in memory.
#
#   benches/goals/disk_bytes.sh                       256 bytes, 2 KiB and 16 KiB, 256 MB of payload each
#   TOTAL_MB=1000 benches/goals/disk_bytes.sh 1024
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

total=$((${TOTAL_MB:-256} * 1000000))
port=${FIRST_PORT:-23160}
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/disk-bytes-XXXXXX")")
trap 'stop_nodes; rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- 256 2048 16384

# Bytes that files take, holes not counted.
taken() { du --block-size=1 --total "$@" | tail -n 1 | cut -f 1; }
ratio() { awk -v bytes="$1" -v payload="$2" 'BEGIN { printf "%.2f", bytes / payload }'; }

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
tell_machine
echo "| payload, bytes | entries | segments | database | both for a byte of payload | journal, MiB |"
echo "|--:|--:|--:|--:|--:|--:|"
for payload in "$@"; do
    rm -rf "$work/converge1"
    start_nodes "$binary" 1
    while [ $(($(status "$binary" last_position) * payload)) -lt "$total" ]; do
        "$binary" bench --endpoint "http://127.0.0.1:$((port + 1))" --warmup 1ms --clients 32 --payload "$payload" --for 5s >/dev/null
    done
    entries=$(status "$binary" last_position)
    end_signal=TERM
    stop_nodes
    data=$work/converge1 bytes=$((entries * payload))
    segments=$(taken "$data/log") database=$(taken "$data/ledger.redb")
    echo "| $payload | $entries | $(ratio "$segments" "$bytes") | $(ratio "$database" "$bytes") |" \
        "$(ratio $((segments + database)) "$bytes") | $(($(taken "$data"/journal-*) >> 20)) |"
done
