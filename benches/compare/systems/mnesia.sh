# Mnesia of Debian's Erlang, behind the least that an append server is: see `mnesia/append_server.erl`.
# shellcheck shell=bash disable=SC2154
target_of=mnesia
here=benches/compare/mnesia

install() {
    erl -noshell -eval 'case code:which(mnesia) of non_existing -> halt(1); _ -> halt(0) end.' 2>/dev/null ||
        debian erlang-base erlang-mnesia
}

version() {
    erl -noshell -eval 'application:load(mnesia), {ok, V} = application:get_key(mnesia, vsn),
        io:format("Mnesia ~s, Erlang/OTP ~s~n", [V, erlang:system_info(otp_release)]), halt().'
}

start() {
    local id nodes=
    erlc -o "$work" "$here/append_server.erl"
    export ERL_EPMD_PORT=$((port + 100))
    epmd -address 127.0.0.1 >"$work/epmd.log" 2>&1 &
    pids+=($!)
    for id in $(seq "$NODES"); do nodes+=" n$id@127.0.0.1"; done
    # The first makes the tables when the others are there.
    for id in $(seq "$NODES" -1 1); do
        HOME=$work erl -noshell -name "n$id@127.0.0.1" -setcookie compare -pa "$work" -start_epmd false \
            -kernel inet_dist_use_interface '{127,0,0,1}' -mnesia dir "\"$work/mnesia$id\"" \
            -run append_server main $((port + id)) $nodes >"$work/mnesia$id.log" 2>&1 &
        pids+=($!)
    done
    await Mnesia listens $((port + 1))
}

leader() { printf '127.0.0.1:%s' $((port + 1)); }
