# etcd of Debian. A put of a new key each time; a majority has synced it before it is acknowledged.
# shellcheck shell=bash disable=SC2154
target_of=etcd
install() { { command -v etcd && command -v etcdctl; } >/dev/null || debian etcd-server etcd-client; }
version() { etcd --version | head -n 1; }

start() {
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
    ETCDCTL_API=3 await etcd etcdctl --endpoints "$(endpoints "$NODES")" endpoint health
}

leader() {
    local id
    for id in $(seq "$NODES"); do
        if ETCDCTL_API=3 etcdctl --endpoints "http://127.0.0.1:$((port + id))" endpoint status -w fields |
            awk -F' : ' '/"MemberID"/ { member = $2 } /"Leader"/ { leader = $2 } END { exit member != leader }'; then
            printf '127.0.0.1:%s' $((port + id))
            return
        fi
    done
}
