#!/usr/bin/env bash
# Where the processor time of an append goes: a leader and a follower of three nodes on loopback, by thread and by part.
#
# A command for people, not a gate. A sample counts for the part of the frame nearest to the end of its stack that belongs
# to one; the kernel's own parts come first. It needs perf, and the right to use it. FLAMES=DIR also writes a flame graph of each node
# there, with `inferno`, which it installs under target/.
#
#   benches/profile.sh                     one client, and 64; 10 s
#   CLIENTS=256 FOR=5 FLAMES=/tmp benches/profile.sh
#   READS=99 CLIENTS=64 benches/profile.sh   of 100 calls so many are linearizable reads of one entry
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benches/lib.sh

CLIENTS=${CLIENTS:-1 64}
FOR=${FOR:-10}
READS=${READS:-0}
FLAMES=${FLAMES:-}
port=${FIRST_PORT:-23410}
work=$(mktemp -d)
trap 'stop_nodes; rm -rf "$work"' EXIT

command -v perf >/dev/null || debian linux-perf
binary=$(build converge-ledger "${CONVERGE_BIN:-}" "$PROFILE")
[ -z "$FLAMES" ] || [ -x "$target/tools/bin/inferno-flamegraph" ] ||
    "$CARGO" install --quiet --locked --root "$target/tools" inferno >&2

# Lines of `perf script` to a table: share of samples by thread, then by part.
table() {
    awk '
        function part(name) {
            if (name ~ /futex|schedule|wake_up|_sched|switch_to|epoll|eventfd/) return "kernel: threads that wait and wake"
            if (name ~ /tcp_|sock_|inet_|__sys_(send|recv)|net_rx|loopback/) return "kernel: sockets"
            if (name ~ /ext4|fsync|pwrite|blk_|filemap|submit_bio|vfs_/) return "kernel: files"
            if (name ~ /^redb::|<redb::/) return "redb"
            if (name ~ /(^|<)(h2|hyper|hyper_util|tonic|http|tower)::/) return "HTTP/2 and gRPC"
            if (name ~ /prost::/) return "gRPC messages"
            if (name ~ /(^|<)raft::/) return "the Raft crate"
            if (name ~ /converge_actors::storage/) return "storage"
            if (name ~ /converge_actors::replication/) return "replication"
            if (name ~ /converge_actors::distribution/) return "links"
            if (name ~ /converge_actors::entry/) return "entry server"
            if (name ~ /converge_ledger_core/) return "state machine and codec"
            if (name ~ /converge_ledger::/) return "API and handle"
            if (name ~ /(^|<)ractor::|converge_supervisors/) return "actors"
            if (name ~ /(^|<)tokio::/) return "tokio"
            return ""
        }
        function end() { if (open) { parts[found == "" ? "the rest" : found]++; open = 0 } }
        /^[^ \t]/ {
            end(); open = 1; found = ""; samples++
            thread = $0; sub(/ +[0-9]+(\/[0-9]+)? .*/, "", thread); sub(/[-#]?[0-9]+$/, "", thread); threads[thread]++
        }
        /^[ \t]+[0-9a-f]+ / && found == "" {
            name = $0; sub(/^[ \t]+[0-9a-f]+ /, "", name); found = part(name)
        }
        END {
            end()
            for (name in threads) printf "1\t%d\t| thread %s | %.1f %% |\n", threads[name], name, 100 * threads[name] / samples
            for (name in parts) printf "2\t%d\t| %s | %.1f %% |\n", parts[name], name, 100 * parts[name] / samples
        }' | sort -t "$(printf '\t')" -k1,1n -k2,2nr | cut -f3 | head -24
}

for clients in $CLIENTS; do
    start_nodes "$binary" 3
    leader=$(leader_of_nodes "$binary" 3)
    follower=$((leader % 3 + 1))
    before=$(status "$binary" last_position)
    "$binary" bench --endpoint "http://127.0.0.1:$((port + leader))" --clients "$clients" --reads "$READS" --for "${FOR}s" >/dev/null &
    load=$!
    for role in leader follower; do
        pid=${pids[${!role} - 1]}
        perf record --quiet -F 997 --call-graph dwarf,16384 -p "$pid" -o "$work/$role.perf" -- sleep $((FOR / 3)) >&2
    done
    wait "$load"
    say "$(($(status "$binary" last_position) - before)) appends of $clients client(s) in $FOR s, $READS of 100 calls reads, $("$binary" --version)"
    for role in leader follower; do
        perf script -i "$work/$role.perf" --no-inline 2>/dev/null >"$work/$role.script"
        printf '\n| %s, %s client(s) | of its processor time |\n|---|--:|\n' "$role" "$clients"
        table <"$work/$role.script"
        if [ -n "$FLAMES" ]; then
            "$target/tools/bin/inferno-collapse-perf" <"$work/$role.script" 2>/dev/null |
                "$target/tools/bin/inferno-flamegraph" >"$FLAMES/$role-$clients.svg"
        fi
    done
    stop_nodes
    rm -rf "$work"/converge*
done
