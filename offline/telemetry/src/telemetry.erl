-module(telemetry).
%% The public API of the `telemetry` package, written from its documentation, for builds
%% that cannot reach Hex. Applications never meet it: they get the package.

-export([attach/4, attach_many/4, detach/1, list_handlers/1, persist/0]).
-export([execute/2, execute/3, span/3]).
-export([report_cb/1]).

-export_type([
    handler_id/0,
    event_name/0,
    event_prefix/0,
    event_measurements/0,
    event_metadata/0,
    event_value/0,
    handler_config/0,
    handler_function/0,
    handler/0,
    span_result/0,
    span_function/0
]).

-include_lib("kernel/include/logger.hrl").

-type handler_id() :: term().
-type event_name() :: [atom(), ...].
-type event_prefix() :: [atom()].
-type event_value() :: number().
-type event_measurements() :: map().
-type event_metadata() :: map().
-type handler_config() :: term().
-type handler_function() ::
    fun((event_name(), event_measurements(), event_metadata(), handler_config()) -> any()).
-type handler() :: #{
    id := handler_id(),
    event_name := event_name(),
    function := handler_function(),
    config := handler_config()
}.
-type span_result() :: term().
-type span_function() ::
    fun(() -> {span_result(), event_metadata()} |
              {span_result(), event_measurements(), event_metadata()}).

-spec attach(handler_id(), event_name(), handler_function(), handler_config()) ->
    ok | {error, already_exists}.
attach(Id, Event, Function, Config) ->
    attach_many(Id, [Event], Function, Config).

-spec attach_many(handler_id(), [event_name()], handler_function(), handler_config()) ->
    ok | {error, already_exists}.
attach_many(Id, Events, Function, Config) when is_function(Function, 4), is_list(Events) ->
    lists:all(fun is_event_name/1, Events) orelse
        erlang:error(badarg, [Id, Events, Function, Config]),
    case erlang:fun_info(Function, type) of
        {type, external} ->
            ok;
        {type, local} ->
            ?LOG_INFO(
                #{
                    handler_id => Id,
                    event_names => Events,
                    function => Function,
                    config => Config,
                    type => local
                },
                #{report_cb => fun ?MODULE:report_cb/1}
            )
    end,
    telemetry_handlers:insert(Id, Events, Function, Config).

-spec detach(handler_id()) -> ok | {error, not_found}.
detach(Id) ->
    telemetry_handlers:delete(Id).

-spec list_handlers(event_prefix()) -> [handler()].
list_handlers(Prefix) when is_list(Prefix) ->
    [
        #{id => Id, event_name => Event, function => Function, config => Config}
     || {Event, {Id, Function, Config}} <- telemetry_handlers:with_prefix(Prefix)
    ].

%% Events are faster after it, attaching and detaching slower.
-spec persist() -> ok.
persist() ->
    telemetry_handlers:persist().

%% The text of the report of attach_many/4.
-spec report_cb(logger:report()) -> {io:format(), [term()]}.
report_cb(#{handler_id := Id}) ->
    {
        "The handler ~tp is a local function: a remote capture (fun Module:Function/4) "
        "is called faster.",
        [Id]
    }.

-spec execute(event_name(), event_measurements() | event_value()) -> ok.
execute(Event, Measurements) ->
    execute(Event, Measurements, #{}).

-spec execute(event_name(), event_measurements() | event_value(), event_metadata()) -> ok.
execute(Event, Value, Metadata) when is_number(Value) ->
    execute(Event, #{value => Value}, Metadata);
execute([_ | _] = Event, Measurements, Metadata) when is_map(Measurements), is_map(Metadata) ->
    call(telemetry_handlers:of_event(Event), Event, Measurements, Metadata).

-spec span(event_prefix(), event_metadata(), span_function()) -> span_result().
span(Prefix, StartMetadata, Function) ->
    StartTime = erlang:monotonic_time(),
    Context = erlang:make_ref(),
    execute(
        Prefix ++ [start],
        #{monotonic_time => StartTime, system_time => erlang:system_time()},
        in_span(StartMetadata, Context)
    ),
    try Function() of
        {Result, StopMetadata} ->
            stop(Prefix, #{}, in_span(StopMetadata, Context), StartTime),
            Result;
        {Result, Measurements, StopMetadata} ->
            stop(Prefix, Measurements, in_span(StopMetadata, Context), StartTime),
            Result
    catch
        Kind:Reason:Stacktrace ->
            StopTime = erlang:monotonic_time(),
            execute(
                Prefix ++ [exception],
                #{duration => StopTime - StartTime, monotonic_time => StopTime},
                (in_span(StartMetadata, Context))#{
                    kind => Kind, reason => Reason, stacktrace => Stacktrace
                }
            ),
            erlang:raise(Kind, Reason, Stacktrace)
    end.

stop(Prefix, Measurements, Metadata, StartTime) ->
    StopTime = erlang:monotonic_time(),
    Own = #{duration => StopTime - StartTime, monotonic_time => StopTime},
    execute(Prefix ++ [stop], maps:merge(Measurements, Own), Metadata).

%% Metadata that names a span already keeps it.
in_span(Metadata, Context) ->
    maps:merge(#{telemetry_span_context => Context}, Metadata).

call([{Id, Function, Config} | Handlers], Event, Measurements, Metadata) ->
    try
        Function(Event, Measurements, Metadata, Config)
    catch
        Kind:Reason:Stacktrace -> failed(Id, Config, Event, Kind, Reason, Stacktrace)
    end,
    call(Handlers, Event, Measurements, Metadata);
call([], _Event, _Measurements, _Metadata) ->
    ok.

%% A handler that fails is detached, so that it fails once, and an event tells of it.
failed(Id, Config, Event, Kind, Reason, Stacktrace) ->
    detach(Id),
    ?LOG_ERROR(
        "Handler ~tp has failed and has been detached. Class=~tp~nReason=~tp~nStacktrace=~tp~n",
        [Id, Kind, Reason, Stacktrace]
    ),
    execute(
        [telemetry, handler, failure],
        #{monotonic_time => erlang:monotonic_time(), system_time => erlang:system_time()},
        #{
            event_name => Event,
            handler_id => Id,
            handler_config => Config,
            kind => Kind,
            reason => Reason,
            stacktrace => Stacktrace
        }
    ).

is_event_name([_ | _] = Name) -> lists:all(fun is_atom/1, Name);
is_event_name(_Name) -> false.
