#!/usr/bin/env escript
%% Does scripts to trees of Erlang's own supervisor and tells what happened.
%%
%%   escript scripts.escript FILE
%%
%% FILE holds one term `{Supervisor, Steps}.` a script, as `model/erlang.rs` writes them. For each step (the first is
%% the start of the tree) the output has `E EVENT` and `V VIEW` lines, then `R REPLY`; after a script, `END`.
%%
%% The supervisor is Erlang's own but for its clock: its code, as it is installed, is compiled again with a clock that the
%% steps turn, so that windows come to their edge to the millisecond. That needs the debug information in its object
%% code; without it this exits with 2.
%%
%% Starts are told by the start functions, which run in the supervisor, and ends by the tracing of the virtual machine,
%% both with strictly monotonic time stamps. Nothing sleeps: a step is over when every process that ended on purpose is
%% down and no supervisor has a dead or restarting child.
-mode(compile).
-define(TURNS, 5000).
-export([init/1, start_worker/4, start_supervisor/2]).

main([File]) ->
    logger:set_primary_config(level, none),
    io:setopts([{encoding, unicode}]),
    ets:new(clock, [named_table, public]),
    set_clock(0),
    turn_the_clock(),
    {ok, Scripts} = file:consult(File),
    lists:foreach(fun one/1, Scripts).

set_clock(Milliseconds) ->
    put(milliseconds, Milliseconds),
    ets:insert(clock, {seconds, Milliseconds div 1000}).

pass(Milliseconds) -> set_clock(get(milliseconds) + Milliseconds).

%% The supervisor asks for whole seconds, in one place.
turn_the_clock() ->
    File = code:which(supervisor),
    case beam_lib:chunks(File, [abstract_code]) of
        {ok, {_, [{abstract_code, {_, Forms}}]}} ->
            put(clocks, 0),
            Turned = turned(Forms),
            1 = get(clocks),
            {ok, supervisor, Code} = compile:forms(Turned, []),
            ok = case code:is_sticky(supervisor) of true -> true = code:unstick_mod(supervisor), ok; false -> ok end,
            {module, supervisor} = code:load_binary(supervisor, File, Code);
        _ -> halt(2)
    end.

turned({call, L, {remote, _, {atom, _, erlang}, {atom, _, monotonic_time}}, [{integer, _, 1}]}) ->
    put(clocks, get(clocks) + 1),
    {call, L, {remote, L, {atom, L, ets}, {atom, L, lookup_element}},
     [{atom, L, clock}, {atom, L, seconds}, {integer, L, 2}]};
turned([Head | Tail]) -> [turned(Head) | turned(Tail)];
turned(Tuple) when is_tuple(Tuple) -> list_to_tuple(turned(tuple_to_list(Tuple)));
turned(Term) -> Term.

%% Each script has a driver, which all of its tree is linked to and traced with.
one({Sup, Steps}) ->
    ets:new(events, [named_table, public, ordered_set]),
    ets:new(names, [named_table, public]),
    ets:new(attempts, [named_table, public]),
    ets:new(workers, [named_table, public]),
    ets:new(resting, [named_table, public]),
    Collector = spawn_link(fun collect/0),
    {Driver, Monitor} = spawn_monitor(fun() -> drive(Sup, Steps, Collector) end),
    receive {'DOWN', Monitor, process, Driver, Reason} -> normal = Reason end,
    unlink(Collector),
    exit(Collector, kill),
    [ets:delete(Table) || Table <- [events, names, attempts, workers, resting]],
    io:put_chars("END\n").

drive(Sup, Steps, Collector) ->
    process_flag(trap_exit, true),
    set_clock(0),
    put(collector, Collector),
    put(seen, #{}),
    Flags = [procs, set_on_spawn, strict_monotonic_timestamp, {tracer, Collector}],
    1 = erlang:trace(self(), true, Flags),
    case start_supervisor("root", Sup) of
        {ok, Root} ->
            tell(Root, "ok"),
            pass(1),
            lists:foreach(fun(Step) -> tell(Root, do(Step, Root)), pass(1) end, Steps),
            erlang:trace(self(), false, [all]),
            is_process_alive(Root) andalso exit(left_over);
        {error, Reason} ->
            tell(none, [culprit("root", Reason), " did not start"])
    end.

culprit(Path, {shutdown, {failed_to_start_child, Id, Reason}}) -> culprit(Path ++ "/" ++ Id, Reason);
culprit(Path, _) -> Path.

%% --- the tree

%% Its parent goes on when it has dealt with what ended during its start: which of the two is first is nobody's rule.
start_supervisor(Path, Sup) ->
    Started = supervisor:start_link(?MODULE, {Path, Sup}),
    at_rest(),
    Started.

init({Path, {sup, {simple, Restart, Significant, Shutdown}, Intensity, Period, Auto, []}}) ->
    name(self(), {dynamic, Path}),
    event(["begin ", Path]),
    Flags = #{strategy => simple_one_for_one, intensity => Intensity, period => Period, auto_shutdown => Auto},
    Template = #{id => child, start => {?MODULE, start_worker, []}, restart => Restart, significant => Significant,
                 shutdown => Shutdown},
    {ok, {Flags, [Template]}};
init({Path, {sup, Strategy, Intensity, Period, Auto, Children}}) ->
    name(self(), {supervisor, Path}),
    event(["begin ", Path]),
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => Auto},
    {ok, {Flags, [spec(Path, Child) || Child <- Children]}}.

spec(Parent, {Id, Restart, Significant, Body}) ->
    Path = Parent ++ "/" ++ Id,
    Own = case Body of
        {worker, Key, Shutdown, Starts, Slow} ->
            #{start => {?MODULE, start_worker, [Path, Key, Starts, Slow]}, shutdown => Shutdown, type => worker};
        Sup ->
            #{start => {?MODULE, start_supervisor, [Path, Sup]}, type => supervisor}
    end,
    Own#{id => Id, restart => Restart, significant => Significant}.

start_worker(Path, Key, Starts, Slow) ->
    Attempt = ets:update_counter(attempts, Key, 1, {Key, 0}),
    Outcome = if Attempt =< length(Starts) -> lists:nth(Attempt, Starts); true -> ok end,
    event(["start ", Path, " ", atom_to_list(Outcome)]),
    case Slow of
        {Attempt, Ends} when Outcome =/= ignore -> meanwhile(Path, Ends);
        _ -> ok
    end,
    case Outcome of
        ok ->
            Pid = spawn_link(fun() -> receive {die, Why} -> exit(Why) end end),
            name(Pid, {worker, Path}),
            ets:insert(workers, {Path, Pid}),
            {ok, Pid};
        ignore -> ignore;
        fail -> {error, told_to_fail}
    end.

%% Runs in the supervisor: siblings end, and it has that in its mailbox, before this start is through.
meanwhile(Path, Ends) ->
    at_rest(),
    Siblings = [{ets:lookup(workers, parent(Path) ++ "/" ++ Id), Why} || {Id, Why} <- Ends],
    lists:foldl(fun end_sibling/2, Path, Siblings).

end_sibling({[{_, Pid}], Why}, Told) ->
    {links, Links} = process_info(self(), links),
    case lists:member(Pid, Links) andalso is_process_alive(Pid) of
        true ->
            Told =:= told orelse event(["meanwhile ", Told]),
            Monitor = monitor(process, Pid),
            case Why of kill -> exit(Pid, kill); _ -> Pid ! {die, Why} end,
            receive {'DOWN', Monitor, process, _, _} -> ok end,
            until_told(self(), Pid),
            told;
        false -> Told
    end;
end_sibling({[], _}, Told) -> Told.

%% All other processes wait, but for those that wait for this one, or here. Bounded: one may wait for something that only
%% comes after this, with more in its mailbox.
at_rest() ->
    ets:insert(resting, {self()}),
    until_quiet(?TURNS),
    ets:delete(resting, self()).

until_quiet(0) -> ok;
until_quiet(Turns) ->
    Others = [Pid || {Pid, _} <- ets:tab2list(names), Pid =/= self()] -- ancestors(),
    Rests = fun(Pid) ->
        Info = process_info(Pid, [status, message_queue_len]),
        Info =:= undefined orelse Info =:= [{status, waiting}, {message_queue_len, 0}]
            orelse ets:member(resting, Pid)
    end,
    Quiet = fun() -> lists:all(Rests, Others) end,
    case Quiet() andalso (erlang:yield() andalso Quiet()) of
        true -> ok;
        false -> erlang:yield(), until_quiet(Turns - 1)
    end.

ancestors() ->
    case get('$ancestors') of
        undefined -> [];
        Ancestors -> Ancestors
    end.

%% --- steps

do({exit, [{First, _} | _] = Ends}, Root) ->
    Pids = [{element(2, find(Root, Path)), Why} || {Path, Why} <- Ends],
    {_, Supervisor} = find(Root, parent(First)),
    sys:suspend(Supervisor, infinity),
    [die(Pid, Why, Supervisor) || {Pid, Why} <- Pids],
    sys:resume(Supervisor, infinity),
    "";
do({pass, Milliseconds}, _) -> pass(Milliseconds), "";
do({queued, Path, Calls}, Root) ->
    case find(Root, Path) of
        {supervisor, Supervisor} when is_pid(Supervisor) ->
            Asks = [call(Call, Root) || Call <- Calls],
            sys:suspend(Supervisor, infinity),
            Callers = [caller(Ask, Supervisor) || Ask <- Asks],
            sys:resume(Supervisor, infinity),
            lists:join(" | ", [receive {Caller, Reply} -> Reply end || Caller <- Callers]);
        _ -> lists:join(" | ", ["no supervisor" || _ <- Calls])
    end;
do(stop, Root) ->
    gen_server:stop(Root, shutdown, infinity),
    "";
do(Call, Root) -> (call(Call, Root))().

%% Its call is in the supervisor's mailbox when this returns.
caller(Ask, Supervisor) ->
    {message_queue_len, Before} = process_info(Supervisor, message_queue_len),
    Driver = self(),
    Caller = spawn_link(fun() -> Driver ! {self(), Ask()} end),
    until_asked(Supervisor, Before),
    Caller.

until_asked(Supervisor, Before) ->
    case process_info(Supervisor, message_queue_len) of
        {message_queue_len, Before} -> erlang:yield(), until_asked(Supervisor, Before);
        _ -> ok
    end.

%% What is to be asked, ready to be asked: nothing is looked up any more.
call({start, Path, Child}, Root) ->
    {Id, _, _, Body} = Child,
    Start = fun(Supervisor) ->
        case kind(Supervisor) of
            supervisor -> supervisor:start_child(Supervisor, spec(Path, Child));
            dynamic -> {worker, Key, _, Starts, Slow} = Body, supervisor:start_child(Supervisor, [Path ++ "/" ++ Id, Key, Starts, Slow])
        end
    end,
    ask(Root, Path ++ "/" ++ Id, Start);
call({terminate, Path}, Root) -> ask_about(Root, Path, fun supervisor:terminate_child/2);
call({restart, Path}, Root) -> ask_about(Root, Path, fun supervisor:restart_child/2);
call({delete, Path}, Root) -> ask_about(Root, Path, fun supervisor:delete_child/2).

%% A supervisor heeds exits of its parent only, so it is told by a system message. Over when its own supervisor, which is
%% suspended, could read of it.
die(Pid, Why, Supervisor) ->
    Below = case kind(Pid) of
        worker -> [];
        _ -> below(Pid)
    end,
    Why =:= kill andalso [orphan(P) || P <- Below],
    Monitors = [monitor(process, P) || P <- [Pid | Below]],
    case {kind(Pid), Why} of
        {_, kill} -> exit(Pid, kill);
        {worker, _} -> Pid ! {die, Why};
        _ -> try gen_server:stop(Pid, Why, infinity) catch exit:_ -> ok end
    end,
    [receive {'DOWN', Monitor, process, _, _} -> ok end || Monitor <- Monitors],
    until_told(Supervisor, Pid).

until_told(Supervisor, Pid) ->
    {messages, Messages} = process_info(Supervisor, messages),
    case [told || {'EXIT', From, _} <- Messages, From =:= Pid] of
        [told] -> ok;
        [] -> erlang:yield(), until_told(Supervisor, Pid)
    end.

ask_about(Root, Path, Ask) ->
    "/" ++ Id = lists:nthtail(length(parent(Path)), Path),
    ask(Root, Path, fun(Supervisor) ->
        case {kind(Supervisor), ets:lookup(workers, Path)} of
            {dynamic, [{_, Pid}]} -> Ask(Supervisor, Pid);
            {_, _} -> Ask(Supervisor, Id)
        end
    end).

%% Asks the supervisor of the child with this path.
ask(Root, Path, Ask) ->
    case find(Root, parent(Path)) of
        {supervisor, Pid} when is_pid(Pid) ->
            fun() ->
                case reply(Ask(Pid)) of
                    {failed, Reason} -> [culprit(Path, Reason), " did not start"];
                    Reply -> Reply
                end
            end;
        _ -> fun() -> "no supervisor" end
    end.

parent(Path) -> lists:sublist(Path, string:rchr(Path, $/) - 1).

reply(ok) -> "ok";
reply({ok, undefined}) -> "ignored";
reply({ok, Pid}) when is_pid(Pid) -> "started";
reply({error, not_found}) -> "not found";
reply({error, running}) -> "running";
reply({error, simple_one_for_one}) -> "simple_one_for_one";
reply({error, restarting}) -> "restarting";
reply({error, already_present}) -> "already present";
reply({error, {already_started, _}}) -> "already started";
reply({error, {bad_combination, _}}) -> "refused";
reply({error, {Reason, Child}}) when element(1, Child) =:= child -> {failed, Reason};
reply({error, Reason}) -> {failed, Reason}.

%% --- what is there

find(Root, "root") -> {supervisor, Root};
find(Root, Path) ->
    case [{Kind, Pid} || {P, Pid, Kind} <- view(Root, "root"), P =:= Path] of
        [Found] -> Found;
        [] -> none
    end.

below(Supervisor) -> [Pid || {_, Pid, _} <- view(Supervisor, ""), is_pid(Pid)].

%% All below a supervisor, depth first in start order (it lists its children the other way round).
view(Supervisor, Path) ->
    Children = lists:reverse(supervisor:which_children(Supervisor)),
    case kind(Supervisor) of
        supervisor -> lists:append([seen(Path ++ "/" ++ Id, Pid, Kind) || {Id, Pid, Kind, _} <- Children]);
        dynamic -> lists:sort([{called(Pid), Pid, worker} || {undefined, Pid, _, _} <- Children])
    end.

called(Pid) when is_pid(Pid) -> element(2, ets:lookup_element(names, Pid, 2));
called(restarting) -> "?".

seen(Path, Pid, supervisor) when is_pid(Pid) -> [{Path, Pid, supervisor} | view(Pid, Path)];
seen(Path, Pid, Kind) -> [{Path, Pid, Kind}].

counts(Supervisor, Path) ->
    Counts = supervisor:count_children(Supervisor),
    Numbers = [proplists:get_value(Key, Counts) || Key <- [specs, active, supervisors, workers]],
    io_lib:format("V ~s has ~b specs, ~b active, ~b supervisors, ~b workers~n", [Path | Numbers]).

%% The tree at rest. A supervisor answers between two of its doings; while it ends, its parent lists a dead child.
settled(Root) ->
    try view(Root, "root") of
        View ->
            case lists:all(fun({_, Pid, _}) -> Pid =:= undefined orelse (is_pid(Pid) andalso is_process_alive(Pid)) end, View) of
                true -> View;
                false -> erlang:yield(), settled(Root)
            end
    catch
        exit:_ ->
            case is_process_alive(Root) of
                true -> erlang:yield(), settled(Root);
                false -> []
            end
    end.

%% --- the account

tell(Root, Reply) ->
    View = if is_pid(Root) -> settled(Root); true -> [] end,
    Ref = erlang:trace_delivered(all),
    receive {trace_delivered, all, Ref} -> ok end,
    get(collector) ! {sync, self()},
    receive synced -> ok end,
    Events = [["E ", Event, $\n] || {_, Event} <- ets:tab2list(events)],
    ets:delete_all_objects(events),
    Seen = get(seen),
    Lines = [[["V ", Path, " ", word(Pid, maps:get(Path, Seen, none)), $\n],
              [counts(Pid, Path) || Kind =:= supervisor, is_pid(Pid)]] || {Path, Pid, Kind} <- View],
    Top = [counts(Root, "root") || is_pid(Root), is_process_alive(Root)],
    put(seen, maps:from_list([{Path, Pid} || {Path, Pid, _} <- View, is_pid(Pid)])),
    io:put_chars([Events, Top, Lines, "R ", Reply, $\n]).

word(undefined, _) -> "undefined";
word(restarting, _) -> "restarting";
word(Pid, Pid) -> "up";
word(_, _) -> "new".

name(Pid, Name) -> ets:insert(names, {Pid, Name}).

%% What a killed supervisor leaves behind ends at any time, also after the next of that name: it is told first.
orphan(Pid) -> ets:insert(names, {Pid, {orphan, ets:lookup_element(names, Pid, 2)}}).

%% `worker`, `supervisor`, or `dynamic` for a simple_one_for_one.
kind(Pid) -> element(1, ets:lookup_element(names, Pid, 2)).

event(Event) ->
    ets:insert(events, {{erlang:monotonic_time(nanosecond), erlang:unique_integer([monotonic])}, Event}).

collect() ->
    receive
        {trace_ts, Pid, exit, Reason, Stamp} ->
            case ets:lookup(names, Pid) of
                [{_, {orphan, Name}}] -> ended(Name, Reason, {-(1 bsl 62), erlang:unique_integer([monotonic])});
                [{_, Name}] -> ended(Name, Reason, Stamp);
                [] -> ok
            end;
        {sync, From} -> From ! synced;
        _ -> ok
    end,
    collect().

ended({worker, Path}, Reason, Stamp) -> ets:insert(events, {Stamp, ["down ", Path, " ", why(Reason)]});
ended({_, Path}, Reason, Stamp) -> ets:insert(events, {Stamp, ["end ", Path, " ", why(Reason)]}).

why(normal) -> "normal";
why(shutdown) -> "shutdown";
why({shutdown, _}) -> "shutdown:";
why(killed) -> "killed";
why(kill) -> "killed";
why(_) -> "abnormal".
