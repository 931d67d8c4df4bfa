#!/usr/bin/env bash
# A follower that is some gigabytes behind catches up, beside appends: three nodes on loopback.
#
# A command for people, not a gate. It prints the 99th percentile of appends before the follower comes back and while it
# catches up, the term, which must not change, how long it took, and the most memory that leader and follower held.
#
#   benches/goals/lagging.sh                   5 GB behind
#   BEHIND_GB=1 benches/goals/lagging.sh
#   COLD=1 benches/goals/lagging.sh            drops the page cache before it comes back (root)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

BEHIND_GB=${BEHIND_GB:-5}
COLD=${COLD:-0}
FILL_PAYLOAD=16384
CATCH_UP_SECONDS_MAX=1200
port=${FIRST_PORT:-23140}
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/lagging-XXXXXX")")
trap 'stop_nodes; rm -rf "$work"' EXIT

binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
start_nodes "$binary" 3
leader=$(leader_of_nodes "$binary" 3)
lagging=$((leader % 3 + 1))
endpoint=http://127.0.0.1:$((port + leader))
tell_machine

at() { "$binary" status --endpoint "http://127.0.0.1:$((port + $1))" --output json 2>/dev/null | grep -o "\"$2\": *[0-9]*" | grep -o '[0-9]*$' || echo 0; }
p99() { "$binary" bench --endpoint "$endpoint" --clients 16 --for "$1" --output json | grep -o '"p99_us": *[0-9]*' | grep -o '[0-9]*$'; }
peak() { awk '/^VmHWM/ { print int($2 / 1024) " MiB" }' "/proc/${pids[$1 - 1]}/status"; }

{ kill -KILL "${pids[$((lagging - 1))]}" && wait "${pids[$((lagging - 1))]}"; } 2>/dev/null || true
from=$(at "$leader" last_position)
while [ $((($(at "$leader" last_position) - from) * FILL_PAYLOAD)) -lt $((BEHIND_GB * 1000000000)) ]; do
    "$binary" bench --endpoint "$endpoint" --clients 32 --payload "$FILL_PAYLOAD" --warmup 1ms --for 5s >/dev/null
done
if [ "$COLD" = 1 ]; then sync && echo 3 >/proc/sys/vm/drop_caches; fi
term=$(at "$leader" term)
echo "| | p99 of appends, µs | term |"
echo "|---|--:|--:|"
echo "| one follower away | $(p99 10s) | $(at "$leader" term) |"
start_node "$binary" 3 "$lagging"
begin=$SECONDS worst=0
until [ "$(at "$lagging" applied_index)" -ge "$(($(at "$leader" commit_index) - 10000))" ] && [ "$(at "$lagging" applied_index)" -gt 0 ]; do
    [ $((SECONDS - begin)) -lt $CATCH_UP_SECONDS_MAX ] || { say "not caught up within $CATCH_UP_SECONDS_MAX s"; exit 1; }
    now=$(p99 3s)
    [ "$now" -le "$worst" ] || worst=$now
done
echo "| it catches up: $((SECONDS - begin)) s, the worst 3 s of them | $worst | $(at "$leader" term) |"
echo
echo "Most memory: leader $(peak "$leader"), follower $(peak "$lagging"). The term was $term before."
