#!/usr/bin/env bash
# The servers' processor time per append, of two builds in turn on one machine.
#
# A command for people, not a gate. Every round starts each build afresh, three nodes on loopback, and appends with the
# `bench` of the second. What is counted: user and system time of all nodes, over the entries that the ledger has more.
#
#   benches/cpu_per_append.sh OLD NEW                     two programs `converge-ledger`
#   ROUNDS=5 CLIENTS="1 64" FOR=5s benches/cpu_per_append.sh OLD NEW
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
old=$(realpath "$1") new=$(realpath "$2")
ROUNDS=${ROUNDS:-5}
CLIENTS=${CLIENTS:-64}
FOR=${FOR:-5s}
# In front of the range that the kernel gives out, so that no outgoing connection takes one.
port=${FIRST_PORT:-23990}
work=$(mktemp -d)
trap 'stop_nodes; rm -rf "$work"' EXIT

# Ticks of all nodes, which are hundredths of a second here.
ticks() {
    local pid sum=0 used
    for pid in "${pids[@]}"; do
        used=$(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')
        sum=$((sum + used))
    done
    echo "$sum"
}

run() {
    local label=$1 binary=$2 clients=$3 before after from to
    start_nodes "$binary" 3
    "$new" append warm up x --endpoint "$(endpoints 3)" --timeout 30s >/dev/null
    before=$(ticks) from=$(status "$new" last_position)
    "$new" bench --endpoint "$(endpoints 3)" --clients "$clients" --for "$FOR" >/dev/null
    after=$(ticks) to=$(status "$new" last_position)
    stop_nodes
    rm -rf "$work"/converge*
    awk -v l="$label" -v c="$clients" -v t=$((after - before)) -v n=$((to - from)) \
        -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%s\t%d\t%d\t%.1f\n", l, c, n, t / hz / n * 1e6 }' | tee -a "$work/runs"
}

printf 'build\tclients\tappends\tmicroseconds of processor per append\n'
for clients in $CLIENTS; do
    for _ in $(seq "$ROUNDS"); do
        run old "$old" "$clients"
        run new "$new" "$clients"
    done
done
# The median of each, and the ratio.
for clients in $CLIENTS; do
    median() { awk -v l="$1" -v c="$clients" '$1 == l && $2 == c { print $4 }' "$work/runs" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
    awk -v c="$clients" -v o="$(median old)" -v n="$(median new)" 'BEGIN { printf "%d clients: old %.1f, new %.1f, ratio %.3f\n", c, o, n, n / o }'
done
