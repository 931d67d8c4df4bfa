# What the scripts of this folder share: nodes of converge-ledger on loopback, their processor time, their end.
#
# A script sets `work`, a directory that it removes, and `port`, and calls `stop_nodes` when it ends. CONVERGE_BIN names
# the program `converge-ledger`; without it, it is built. CARGO names cargo.
# shellcheck shell=bash

CARGO=${CARGO:-cargo}
PROFILE=${PROFILE:-release}
READY_SECONDS=${READY_SECONDS:-60}
target=${CARGO_TARGET_DIR:-target}
pids=()
# How nodes are ended. Some systems have processes that only their first one can end.
end_signal=KILL

say() { printf '%s\n' "$*" >&2; }

# The path of a program of this workspace, in release; built unless a variable names it. PROFILE=dist is what
# `cargo ship` makes, which is converge-ledger alone.
build() {
    local name=$1 given=$2 profile=$3 directory=$3
    if [ -z "$given" ]; then
        [ "$profile" = dev ] && directory=debug
        if [ "$profile" = dist ]; then
            "$CARGO" ship --quiet >&2
        else
            "$CARGO" build --quiet --profile "$profile" --package "$name" --bin "$name" >&2
        fi
        given=$target/$directory/$name
    fi
    realpath "$given"
}

stop_nodes() {
    [ ${#pids[@]} -eq 0 ] || kill -"$end_signal" "${pids[@]}" 2>/dev/null || true
    [ ${#pids[@]} -eq 0 ] || wait "${pids[@]}" 2>/dev/null || true
    pids=()
    end_signal=KILL
}

# Waits for a command to succeed; the nodes say when they are ready, so this asks often.
await() {
    local what=$1 deadline=$((SECONDS + READY_SECONDS))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            say "$what was not ready within $READY_SECONDS s; its logs:"
            tail -n 5 "$work"/*.log >&2
            exit 1
        fi
        sleep 0.05
    done
}

# Where the nodes listen for clients, so many, with commas.
endpoints() {
    local id list=
    for id in $(seq "$1"); do list+=${list:+,}http://127.0.0.1:$((port + id)); done
    printf '%s' "$list"
}

# One of so many nodes of a program, with a directory of its own under $work.
start_node() {
    local binary=$1 nodes=$2 id=$3 other peers=
    if [ "$nodes" -gt 1 ]; then
        for other in $(seq "$nodes"); do peers+=${peers:+,}$other=127.0.0.1:$((port + 100 + other)); done
    fi
    "$binary" start --node-id "$id" --data-dir "$work/converge$id" --grpc "127.0.0.1:$((port + id))" \
        --peer "127.0.0.1:$((port + 100 + id))" ${peers:+--peers "$peers"} \
        >>"$work/converge$id.out" 2>>"$work/converge$id.log" &
    pids[id - 1]=$!
}

start_nodes() {
    local id
    for id in $(seq "$2"); do start_node "$1" "$2" "$id"; done
    await "converge-ledger" has_leader "$@"
}

# The number of the node that leads.
leader_of_nodes() {
    local id
    for id in $(seq "$2"); do
        if "$1" status --endpoint "http://127.0.0.1:$((port + id))" --output json 2>/dev/null |
            grep -Eq '"role": *"leader"'; then
            printf '%s' "$id"
            return
        fi
    done
}

has_leader() { [ -n "$(leader_of_nodes "$@")" ]; }

# Whether something listens on this port.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# A number in the status of the first node.
status() { "$1" status --endpoint "http://127.0.0.1:$((port + 1))" --output json | grep -o "\"$2\": *[0-9]*" | head -n 1 | grep -o '[0-9]*$'; }

# Says so where figures would mislead.
tell_machine() {
    say "$(nproc) cores, data on $(df --output=source,fstype "$work" | tail -n 1), load generator on the same machine"
    awk -v cores="$(nproc)" '$1 > cores / 2 { exit 1 }' /proc/loadavg ||
        say "the machine is busy (load $(cut -d ' ' -f 1 /proc/loadavg)): ratios are blurred, absolute figures mean nothing"
}

# Installs Debian's packages; says so and fails where that cannot be.
debian() {
    say "installing $*"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1 && return
    say "$* cannot be installed here"
    return 1
}
