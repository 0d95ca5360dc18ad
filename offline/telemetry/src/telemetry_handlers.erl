-module(telemetry_handlers).
%% Owns the table of handlers. Changes go through this process, one after another; reads
%% are done by whoever executes an event: one lookup gives all the handlers of an event. The
%% table has no name and is found by a persistent term, as the package has it: an event costs here
%% what it costs there.

-behaviour(gen_server).

-export([start_link/0, insert/4, delete/1, of_event/1, with_prefix/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-include_lib("kernel/include/logger.hrl").

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec insert(term(), [telemetry:event_name()], telemetry:handler_function(), term()) ->
    ok | {error, already_exists}.
insert(Id, Events, Function, Config) ->
    gen_server:call(?MODULE, {insert, Id, lists:usort(Events), Function, Config}).

-spec delete(term()) -> ok | {error, not_found}.
delete(Id) ->
    gen_server:call(?MODULE, {delete, Id}).

%% In the order in which they were attached.
of_event(Event) ->
    try ets:lookup(table(), Event) of
        [{_Event, Handlers}] -> Handlers;
        [] -> []
    catch
        error:badarg ->
            %% No table: an event must not bring down whoever emits it.
            ?LOG_WARNING("Cannot look up telemetry handlers: is the telemetry application started?"),
            []
    end.

with_prefix(Prefix) ->
    [
        {Event, Handler}
     || {Event, Handlers} <- ets:tab2list(table()),
        lists:prefix(Prefix, Event),
        Handler <- Handlers
    ].

table() ->
    persistent_term:get(?MODULE).

init([]) ->
    persistent_term:put(?MODULE, ets:new(?MODULE, [protected, {read_concurrency, true}])),
    {ok, #{}}.

handle_call({insert, Id, _Events, _Function, _Config}, _From, Ids) when is_map_key(Id, Ids) ->
    {reply, {error, already_exists}, Ids};
handle_call({insert, Id, Events, Function, Config}, _From, Ids) ->
    [ets:insert(table(), {E, of_event(E) ++ [{Id, Function, Config}]}) || E <- Events],
    {reply, ok, Ids#{Id => Events}};
handle_call({delete, Id}, _From, Ids) ->
    case maps:take(Id, Ids) of
        {Events, Rest} ->
            [remove(Event, Id) || Event <- Events],
            {reply, ok, Rest};
        error ->
            {reply, {error, not_found}, Ids}
    end.

handle_cast(_Message, Ids) ->
    {noreply, Ids}.

remove(Event, Id) ->
    case lists:keydelete(Id, 1, of_event(Event)) of
        [] -> ets:delete(table(), Event);
        Handlers -> ets:insert(table(), {Event, Handlers})
    end.
