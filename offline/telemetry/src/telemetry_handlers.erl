-module(telemetry_handlers).
%% Owns the table of handlers. Changes go through this process, one after another; reads
%% are done by whoever executes an event: one lookup gives all the handlers of an event. The
%% table has no name and is found by a persistent term, as the package has it: an event costs here
%% what it costs there. After persist/0 the persistent term is itself the map of all handlers.

-behaviour(gen_server).

-export([start_link/0, insert/4, delete/1, persist/0, of_event/1, with_prefix/1]).
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

-spec persist() -> ok.
persist() ->
    gen_server:call(?MODULE, persist).

%% In the order in which they were attached.
of_event(Event) ->
    case handlers() of
        Handlers when is_map(Handlers) ->
            maps:get(Event, Handlers, []);
        Table ->
            try ets:lookup(Table, Event) of
                [{_Event, Handlers}] -> Handlers;
                [] -> []
            catch
                error:badarg ->
                    %% No table: an event must not bring down whoever emits it.
                    ?LOG_WARNING(
                        "Cannot look up telemetry handlers: is the telemetry application started?"
                    ),
                    []
            end
    end.

with_prefix(Prefix) ->
    [
        {Event, Handler}
     || {Event, Handlers} <- all(handlers()),
        lists:prefix(Prefix, Event),
        Handler <- Handlers
    ].

all(Handlers) when is_map(Handlers) -> maps:to_list(Handlers);
all(Table) -> ets:tab2list(Table).

handlers() ->
    persistent_term:get(?MODULE, undefined).

init([]) ->
    persistent_term:put(?MODULE, ets:new(?MODULE, [protected, {read_concurrency, true}])),
    {ok, #{}}.

handle_call({insert, Id, _Events, _Function, _Config}, _From, Ids) when is_map_key(Id, Ids) ->
    {reply, {error, already_exists}, Ids};
handle_call({insert, Id, Events, Function, Config}, _From, Ids) ->
    [store(E, of_event(E) ++ [{Id, Function, Config}]) || E <- Events],
    {reply, ok, Ids#{Id => Events}};
handle_call(persist, _From, Ids) ->
    %% The table stays, for who has just found it.
    persistent_term:put(?MODULE, maps:from_list(all(handlers()))),
    {reply, ok, Ids};
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
    store(Event, lists:keydelete(Id, 1, of_event(Event))).

store(Event, Handlers) ->
    store(handlers(), Event, Handlers).

store(Map, Event, []) when is_map(Map) -> persistent_term:put(?MODULE, maps:remove(Event, Map));
store(Map, Event, Handlers) when is_map(Map) ->
    persistent_term:put(?MODULE, Map#{Event => Handlers});
store(Table, Event, []) -> ets:delete(Table, Event);
store(Table, Event, Handlers) -> ets:insert(Table, {Event, Handlers}).
