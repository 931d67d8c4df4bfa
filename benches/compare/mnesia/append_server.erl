%% The least that an append server on Mnesia is: for each context the next sequence, and the entry under it.
%%
%% Every node holds disc copies. An append is one transaction on all of them; before it is acknowledged, a majority has
%% synced its log, as the majority of a Raft cluster has. Appends that wait share a sync. Clients are outside: a frame is
%% its length in four bytes, and holds the length of the context, the context, the payload; the answer is the sequence.
-module(append_server).
-behaviour(gen_server).
-export([main/1, accept/1, init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(WAIT, 30000).
-record(last, {context, sequence}).
-record(entry, {id, payload}).

%% The port of this node, then all nodes; the first of them makes the tables and serves.
main([Port | Names]) ->
    Nodes = [list_to_atom(Name) || Name <- Names],
    case hd(Nodes) =:= node() of
        true -> lead(list_to_integer(Port), Nodes);
        false -> ok
    end.

lead(Port, Nodes) ->
    [await(Node) || Node <- Nodes],
    ok = mnesia:create_schema(Nodes),
    {_, []} = rpc:multicall(Nodes, mnesia, start, []),
    table(last, record_info(fields, last), Nodes),
    table(entry, record_info(fields, entry), Nodes),
    {ok, _} = gen_server:start({local, ?MODULE}, ?MODULE, majority(Nodes), []),
    {ok, Listen} = gen_tcp:listen(Port, [binary, {packet, 4}, {active, false}, {nodelay, true},
                                         {ip, {127, 0, 0, 1}}, {reuseaddr, true}, {backlog, 512}]),
    spawn(fun() -> accept(Listen) end),
    receive after infinity -> ok end.

await(Node) ->
    case net_adm:ping(Node) of
        pong -> ok;
        pang -> timer:sleep(50), await(Node)
    end.

table(Name, Fields, Nodes) ->
    {atomic, ok} = mnesia:create_table(Name, [{attributes, Fields}, {disc_copies, Nodes}]).

majority(Nodes) -> lists:sublist(Nodes, length(Nodes) div 2 + 1).

accept(Listen) ->
    {ok, Socket} = gen_tcp:accept(Listen),
    spawn(fun() -> accept(Listen) end),
    serve(Socket).

serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, <<Length, Context:Length/binary, Payload/binary>>} ->
            Sequence = gen_server:call(?MODULE, {append, Context, Payload}, ?WAIT),
            ok = gen_tcp:send(Socket, <<Sequence:64>>),
            serve(Socket);
        {error, closed} ->
            ok
    end.

init(Synced) -> {ok, {Synced, []}}.

%% It is answered when nothing else waits, after one sync for all.
handle_call({append, Context, Payload}, From, {Synced, Waiting}) ->
    {atomic, Sequence} = mnesia:sync_transaction(fun() ->
        Sequence = case mnesia:read(last, Context, write) of
            [#last{sequence = Last}] -> Last + 1;
            [] -> 1
        end,
        ok = mnesia:write(#last{context = Context, sequence = Sequence}),
        ok = mnesia:write(#entry{id = {Context, Sequence}, payload = Payload}),
        Sequence
    end),
    {noreply, {Synced, [{From, Sequence} | Waiting]}, 0}.

handle_cast(_, State) -> {noreply, State}.

handle_info(timeout, {Synced, Waiting}) ->
    [{ok, ok} = Done || Done <- erpc:multicall(Synced, mnesia, sync_log, [], ?WAIT)],
    [gen_server:reply(From, Sequence) || {From, Sequence} <- Waiting],
    {noreply, {Synced, []}}.
