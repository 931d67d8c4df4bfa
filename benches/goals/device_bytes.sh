#!/usr/bin/env bash
# What the device writes for each small append at ten a second, with a ledger of some sizes behind it. It must not grow.
#
# A command for people, not a gate. Root gives the node a device of its own, a file with an ext4 in it; without that right, the
# disk must be one that nobody else writes to. What it writes while the node idles is shown as well. What a process says of
# itself is no measure: it counts what is written to a page once.
#
#   benches/goals/device_bytes.sh              an empty ledger, 1 GB and 8 GB of entries
#   SECONDS_EACH=30 benches/goals/device_bytes.sh 0 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

each=${SECONDS_EACH:-60}
port=${FIRST_PORT:-23120}
FILL_PAYLOAD=16384
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/device-bytes-XXXXXX")")
whole=$work
trap 'stop_nodes; [ "$work" = "$whole" ] || umount "$work" || true; rm -rf "$whole"' EXIT
[ $# -gt 0 ] || set -- 0 1 8

# Blocks that were never written take no room.
if [ "$(id -u)" = 0 ] && truncate -s 40G "$whole/image" &&
    mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$whole/image" &&
    mkdir "$whole/disk" && mount -o loop "$whole/image" "$whole/disk"; then
    work=$whole/disk
fi
device=$(stat -c %d "$work")
# All bytes that this device has written so far.
written() { awk -v major=$((device >> 8)) -v minor=$((device & 255)) '$1 == major && $2 == minor { printf "%.0f", $10 * 512 }' /proc/diskstats; }
[ -n "$(written)" ] || { say "the device of $work is not in /proc/diskstats"; exit 1; }

# What is behind the journal must have been written before the next figure begins.
settle() { sync && sleep "$1" && sync; }

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
endpoint=http://127.0.0.1:$((port + 1))
start_nodes "$binary" 1
bench() { "$binary" bench --endpoint "$endpoint" --warmup 1ms "$@" >/dev/null; }
tell_machine
echo "| entries, GB | appends | device bytes per append | and idle, per second |"
echo "|--:|--:|--:|--:|"
for size in "$@"; do
    while [ $(($(status "$binary" last_position) * FILL_PAYLOAD)) -lt $((size * 1000000000)) ]; do
        bench --clients 32 --payload "$FILL_PAYLOAD" --for 5s
    done
    settle 10
    before=$(written)
    settle 10
    idle=$((($(written) - before) / 10))
    from=$(status "$binary" last_position) before=$(written)
    bench --clients 1 --rate 10 --for "${each}s"
    bytes=$(($(written) - before)) appends=$(($(status "$binary" last_position) - from))
    echo "| $size | $appends | $((bytes / appends)) | $idle |"
done
