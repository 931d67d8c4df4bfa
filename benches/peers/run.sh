#!/usr/bin/env bash
# Three etcd nodes and three converge-ledger nodes on loopback, in turn, under the same load.
#
# A command for people, not a gate: figures depend on the machine. It installs etcd from Debian when
# it is missing, builds the release binaries, then for every round starts each system afresh on the
# same disk, appends at each number of clients, and prints medians with the ratio to etcd.
#
#   benches/peers/run.sh                      both, 3 rounds, 1 16 64 256 clients
#   ROUNDS=5 CLIENTS="16 64" benches/peers/run.sh
#   ONLY=etcd benches/peers/run.sh            one system alone (etcd | converge)
#   NODES=1 benches/peers/run.sh              one node instead of three
#   PROFILE=dist benches/peers/run.sh         fat LTO
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

ROUNDS=${ROUNDS:-3}
CLIENTS=${CLIENTS:-1 16 64 256}
CONNECTIONS=${CONNECTIONS:-0}
PAYLOAD_BYTES=${PAYLOAD_BYTES:-256}
MEASURE_MS=${MEASURE_MS:-5000}
WARMUP_MS=${WARMUP_MS:-1000}
NODES=${NODES:-3}
ONLY=${ONLY:-etcd converge}
PROFILE=${PROFILE:-release}
READY_SECONDS=30

target=${CARGO_TARGET_DIR:-target}
work=${WORK_DIR:-$target/peers}
# In front of the range that the kernel gives out, so that no outgoing connection takes one.
port=${FIRST_PORT:-23790}
results=$work/runs-$(date -u +%Y%m%dT%H%M%SZ).jsonl
pids=()

say() { printf '%s\n' "$*" >&2; }

stop_nodes() {
    local pid
    for pid in "${pids[@]:-}"; do
        [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]:-}"; do
        [ -n "$pid" ] && wait "$pid" 2>/dev/null || true
    done
    pids=()
}
trap stop_nodes EXIT

# Waits for a command to succeed; the nodes say when they are ready, so this asks often.
await() {
    local what=$1 deadline=$((SECONDS + READY_SECONDS))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            say "$what was not ready within $READY_SECONDS s; logs are in $work"
            exit 1
        fi
        sleep 0.05
    done
}

endpoints() {
    local id list=
    for id in $(seq "$NODES"); do list+=${list:+,}http://127.0.0.1:$((port + id)); done
    printf '%s' "$list"
}

start_etcd() {
    local id cluster=
    for id in $(seq "$NODES"); do cluster+=${cluster:+,}n$id=http://127.0.0.1:$((port + 100 + id)); done
    for id in $(seq "$NODES"); do
        etcd --name "n$id" --data-dir "$work/etcd$id" --log-level error --logger zap \
            --listen-client-urls "http://127.0.0.1:$((port + id))" \
            --advertise-client-urls "http://127.0.0.1:$((port + id))" \
            --listen-peer-urls "http://127.0.0.1:$((port + 100 + id))" \
            --initial-advertise-peer-urls "http://127.0.0.1:$((port + 100 + id))" \
            --initial-cluster "$cluster" --initial-cluster-state new >"$work/etcd$id.log" 2>&1 &
        pids+=($!)
    done
    ETCDCTL_API=3 await "etcd" etcdctl --endpoints "$(endpoints)" endpoint health
}

leader_of_etcd() {
    local id
    for id in $(seq "$NODES"); do
        if ETCDCTL_API=3 etcdctl --endpoints "http://127.0.0.1:$((port + id))" endpoint status -w fields |
            awk -F' : ' '/"MemberID"/ { member = $2 } /"Leader"/ { leader = $2 } END { exit member != leader }'; then
            printf 'http://127.0.0.1:%s' $((port + id))
            return
        fi
    done
}

start_converge() {
    local id peers=
    if [ "$NODES" -gt 1 ]; then
        for id in $(seq "$NODES"); do peers+=${peers:+,}$id=127.0.0.1:$((port + 100 + id)); done
    fi
    for id in $(seq "$NODES"); do
        "$binary" start --node-id "$id" --data-dir "$work/converge$id" --grpc "127.0.0.1:$((port + id))" \
            --peer "127.0.0.1:$((port + 100 + id))" ${peers:+--peers "$peers"} \
            >"$work/converge$id.out" 2>"$work/converge$id.log" &
        pids+=($!)
    done
    await "converge-ledger" converge_has_leader
}

leader_of_converge() {
    local id
    for id in $(seq "$NODES"); do
        if "$binary" status --endpoint "http://127.0.0.1:$((port + id))" --output json 2>/dev/null |
            grep -Eq '"role": *"leader"'; then
            printf 'http://127.0.0.1:%s' $((port + id))
            return
        fi
    done
}
converge_has_leader() { [ -n "$(leader_of_converge)" ]; }

# Starts a system on empty directories, measures every number of clients, stops it.
measure() {
    local system=$1 round=$2 clients leader
    rm -rf "$work/$system"[0-9]*
    "start_$system"
    leader=$("leader_of_$system")
    [ -n "$leader" ] || { say "$system has no leader; logs are in $work"; exit 1; }
    for clients in $CLIENTS; do
        "$load" run --target "$system" --endpoints "$leader" --clients "$clients" \
            --connections "$CONNECTIONS" --payload-bytes "$PAYLOAD_BYTES" --warmup-ms "$WARMUP_MS" \
            --measure-ms "$MEASURE_MS" --label "$system" --out "$results"
        say "round $round: $(tail -n 1 "$results")"
    done
    stop_nodes
    rm -rf "$work/$system"[0-9]
}

install_etcd() {
    command -v etcd >/dev/null && command -v etcdctl >/dev/null && return
    say "installing etcd-server and etcd-client"
    apt-get update -qq && apt-get install -y -qq etcd-server etcd-client >/dev/null
}

mkdir -p "$work"
directory=$PROFILE
[ "$PROFILE" = dev ] && directory=debug
binary=$target/$directory/converge-ledger
load=$target/release/converge-load
cargo build --quiet --release -p converge-load
case " $ONLY " in *" etcd "*) install_etcd ;; esac
case " $ONLY " in *" converge "*) cargo build --quiet --profile "$PROFILE" --bin converge-ledger ;; esac

say "$(nproc) cores, $NODES node(s) each, data on $(df --output=source,fstype "$work" | tail -n 1), load generator on the same machine"
awk -v cores="$(nproc)" '$1 > cores / 2 { exit 1 }' /proc/loadavg ||
    say "the machine is busy (load $(cut -d ' ' -f 1 /proc/loadavg)): ratios are blurred, absolute figures mean nothing"
for round in $(seq "$ROUNDS"); do
    for system in $ONLY; do measure "$system" "$round"; done
done
"$load" table "$results"
say "every run: $results"
