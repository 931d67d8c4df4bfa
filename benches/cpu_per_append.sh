#!/usr/bin/env bash
# The servers' processor time per append, of two builds in turn on one machine.
#
# A command for people, not a gate. Every round starts each build afresh, three nodes on loopback, and appends with the
# `bench` of the second. What is counted: user and system time of all nodes, over the entries that the ledger has more.
#
#   benches/cpu_per_append.sh OLD NEW                     two programs `converge-ledger`
#   ROUNDS=5 CLIENTS="1 64" FOR=5s benches/cpu_per_append.sh OLD NEW
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
old=$(realpath "$1") new=$(realpath "$2")
ROUNDS=${ROUNDS:-5}
CLIENTS=${CLIENTS:-64}
FOR=${FOR:-5s}
# In front of the range that the kernel gives out, so that no outgoing connection takes one.
port=${FIRST_PORT:-23990}
work=$(mktemp -d)
pids=()

stop() {
    [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    [ ${#pids[@]} -eq 0 ] || wait "${pids[@]}" 2>/dev/null || true
    pids=()
}
trap 'stop; rm -rf "$work"' EXIT

start() {
    local id peers=
    for id in 1 2 3; do peers+=${peers:+,}$id=127.0.0.1:$((port + 10 + id)); done
    for id in 1 2 3; do
        "$1" start --node-id "$id" --data-dir "$work/d$id" --grpc "127.0.0.1:$((port + id))" \
            --peer "127.0.0.1:$((port + 10 + id))" --peers "$peers" >"$work/$id.out" 2>"$work/$id.log" &
        pids+=($!)
    done
}

endpoints() { printf 'http://127.0.0.1:%s,http://127.0.0.1:%s,http://127.0.0.1:%s' $((port + 1)) $((port + 2)) $((port + 3)); }

# Ticks of all nodes, which are hundredths of a second here.
ticks() {
    local pid sum=0 used
    for pid in "${pids[@]}"; do
        used=$(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')
        sum=$((sum + used))
    done
    echo "$sum"
}

positions() { "$new" status --endpoint "http://127.0.0.1:$((port + 1))" --output json | grep -o '"last_position": *[0-9]*' | head -n 1 | grep -o '[0-9]*$'; }

run() {
    local label=$1 binary=$2 clients=$3 before after from to
    start "$binary"
    "$new" append warm up x --endpoint "$(endpoints)" --timeout 30s >/dev/null
    before=$(ticks) from=$(positions)
    "$new" bench --endpoint "$(endpoints)" --clients "$clients" --for "$FOR" >/dev/null
    after=$(ticks) to=$(positions)
    stop
    rm -rf "$work"/d?
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
