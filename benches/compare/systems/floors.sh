# The floors of the machine: one server, or none; `floor_NAME` names them all. `echo`: a gRPC server that answers; `echo_file`:
# that appends to a file and syncs before it answers; `file`: a file alone, in the load generator; `redb`: redb alone, there.
# shellcheck shell=bash disable=SC2154
install() { :; }
version() { printf '%s\n' "$(awk '/^name = "(tonic|redb)"$/ { n = $3; getline; print n, $3 }' Cargo.lock | tr -d '"' | paste -sd ',' | sed 's/,/, /g')"; }

start() {
    case $system in
        floor_echo | floor_echo_file)
            target_of=echo
            local data=()
            [ "$system" = floor_echo ] || data=(--data-dir "$work/$system")
            "$load" echo --listen "127.0.0.1:$((port + 1))" "${data[@]}" >"$work/$system.log" 2>&1 &
            pids+=($!)
            await "$system" listens $((port + 1))
            ;;
        floor_file | floor_redb) target_of=${system#floor_} ;;
        *) say "no floor is called $system" && exit 2 ;;
    esac
}

leader() { [ "$target_of" != echo ] || printf '127.0.0.1:%s' $((port + 1)); }
