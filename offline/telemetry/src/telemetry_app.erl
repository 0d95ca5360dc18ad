-module(telemetry_app).
-behaviour(application).
-export([start/2, stop/1]).

start(_Type, _Args) ->
    supervisor:start_link({local, telemetry_sup}, ?MODULE, []).
stop(_State) ->
    ok.
