# PostgreSQL of Debian with one synchronous standby. One INSERT, and so one transaction, for each append; both have synced it
# before it is acknowledged. Sequences come from one counter, not from one for each context. With NODES=1: no standby.
# shellcheck shell=bash disable=SC2154
target_of=postgres

install() {
    command -v pg_ctlcluster >/dev/null || debian postgresql || return
    bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    # It refuses to run as root.
    as=()
    [ "$(id -u)" != 0 ] || as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
}

version() { "$bin/postgres" --version; }
sql() { "$bin/psql" -h 127.0.0.1 -p $((port + 1)) -U postgres -qAtc "$1"; }

serve() {
    "${as[@]}" "$bin/postgres" -D "$work/postgres$1" -p $((port + $1)) -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories= -c max_connections=300 -c synchronous_commit=on "${@:2}" >"$work/postgres$1.log" 2>&1 &
    pids+=($!)
}

start() {
    local id synchronous=
    # A killed postmaster would leave its children behind; this one ends them, and syncs nothing.
    end_signal=QUIT
    chmod 755 "$work"
    for id in 1 2; do mkdir "$work/postgres$id" && chmod 700 "$work/postgres$id"; done
    [ ${#as[@]} -eq 0 ] || chown postgres: "$work"/postgres[12]
    "${as[@]}" "$bin/initdb" -D "$work/postgres1" -U postgres -A trust >"$work/postgres1.log" 2>&1
    [ "$NODES" = 1 ] || synchronous='*'
    serve 1 -c synchronous_standby_names="$synchronous"
    await PostgreSQL sql 'SELECT 1'
    if [ "$NODES" != 1 ]; then
        "${as[@]}" "$bin/pg_basebackup" -h 127.0.0.1 -p $((port + 1)) -U postgres -D "$work/postgres2" -R -c fast
        serve 2
        await "the standby" eval "[ \"\$(sql 'SELECT sync_state FROM pg_stat_replication')\" = sync ]"
    fi
    sql 'CREATE TABLE ledger (context text NOT NULL, sequence bigserial PRIMARY KEY, payload bytea NOT NULL)'
}

leader() { printf '127.0.0.1:%s' $((port + 1)); }
