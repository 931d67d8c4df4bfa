#!/usr/bin/env bash
# Converge Ledger beside its peers and the floors of the machine, on loopback, in turn, under the same load.
#
# A command for people, not a gate: figures depend on the machine. It installs what is missing (and says what it cannot
# have), builds the release programs, then in every round starts each system afresh on the same disk, appends at each
# number of clients, and ends it. All acknowledge an append when it is synced to disk. It prints a Markdown table: medians,
# least and greatest, of rates, latencies and the servers' processor time, and ratios taken within each round.
#
#   benches/compare/run.sh                        all, 3 rounds, 1 16 64 256 clients
#   benches/compare/run.sh converge etcd          these: converge etcd postgres nats mnesia
#                                                 floor_echo floor_echo_file floor_file floor_redb
#   ROUNDS=5 CLIENTS="16 64" benches/compare/run.sh
#   READS=1 benches/compare/run.sh converge etcd  linearizable reads of one entry
#   NODES=1 benches/compare/run.sh                one node instead of three (PostgreSQL: no standby)
#   PAYLOAD_BYTES=16384 benches/compare/run.sh floor_file
#   AGAINST=converge PROFILE=dist benches/compare/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. benches/lib.sh

ROUNDS=${ROUNDS:-3}
CLIENTS=${CLIENTS:-1 16 64 256}
PAYLOAD_BYTES=${PAYLOAD_BYTES:-256}
MEASURE_MS=${MEASURE_MS:-5000}
WARMUP_MS=${WARMUP_MS:-1000}
NODES=${NODES:-3}
READS=${READS:-}
AGAINST=${AGAINST:-etcd}
# In front of the range that the kernel gives out, so that no outgoing connection takes one.
port=${FIRST_PORT:-23790}
systems=("$@")
[ $# -gt 0 ] || systems=(etcd converge postgres nats mnesia floor_echo floor_echo_file floor_file floor_redb)
[ $# -gt 0 ] || [ -z "$READS" ] || systems=(etcd converge)

mkdir -p "$target/compare"
work=$(realpath "$(mktemp -d "$target/compare/run-XXXXXX")")
results=$target/compare/runs-$(date -u +%Y%m%dT%H%M%SZ).jsonl
trap 'stop_nodes; rm -rf "$work"' EXIT

# The functions of a system: install, version, start, leader.
use() {
    system=$1
    case $1 in
        floor_*) . benches/compare/systems/floors.sh ;;
        *) [ -f "benches/compare/systems/$1.sh" ] || { say "no system is called $1"; exit 2; }
           . "benches/compare/systems/$1.sh" ;;
    esac
}

# Starts a system on empty directories, measures every number of clients, stops it. What has no server is itself new each time.
measure() {
    local round=$1 clients where
    start
    for clients in $CLIENTS; do
        if [ ${#pids[@]} -gt 0 ]; then
            where=(--endpoint "$(leader)" --pids "$(IFS=,; echo "${pids[*]}")")
        else
            where=(--data-dir "$work/$system$clients")
        fi
        "$load" run --target "$target_of" "${where[@]}" --clients "$clients" --payload-bytes "$PAYLOAD_BYTES" \
            --warmup-ms "$WARMUP_MS" --measure-ms "$MEASURE_MS" ${READS:+--reads} \
            --label "$system" --round "$round" --out "$results"
        say "round $round: $(tail -n 1 "$results")"
    done
    stop_nodes
    rm -rf "${work:?}"/*
}

load=$(build converge-load "${CONVERGE_LOAD:-}" release)
able=() versions=()
for name in "${systems[@]}"; do
    use "$name"
    if install; then
        able+=("$name")
        versions+=("$(version)")
    else
        say "skipped: $name"
    fi
done
tell_machine
for round in $(seq "$ROUNDS"); do
    for name in "${able[@]}"; do
        use "$name"
        measure "$round"
    done
done
printf '%s node(s) each, %s bytes a payload, %s s a run, %s cores, the load generator on them. %s.\n\n' \
    "$NODES" "$PAYLOAD_BYTES" "$((MEASURE_MS / 1000))" "$(nproc)" \
    "$(printf '%s\n' "${versions[@]}" | awk '!seen[$0]++' | paste -sd ';' | sed 's/;/; /g')"
"$load" table "$results" --against "$AGAINST"
say "every run: $results"
