-module(telemetry_test).
%% The module of the same name in the `telemetry` package, from its documentation: messages to a
%% test for each event.

-export([attach_event_handlers/2, handle_event/4]).

-spec attach_event_handlers(pid(), [telemetry:event_name(), ...]) -> reference().
attach_event_handlers(Destination, Events) when is_pid(Destination), is_list(Events) ->
    Ref = make_ref(),
    ok = telemetry:attach_many(Ref, Events, fun ?MODULE:handle_event/4, {Destination, Ref}),
    Ref.

%% @private
handle_event(Event, Measurements, Metadata, {Destination, Ref}) ->
    Destination ! {Event, Ref, Measurements, Metadata},
    ok.
