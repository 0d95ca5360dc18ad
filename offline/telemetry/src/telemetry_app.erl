-module(telemetry_app).

-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Args) ->
    supervisor:start_link({local, telemetry_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    Handlers = #{id => telemetry_handlers, start => {telemetry_handlers, start_link, []}},
    {ok, {#{strategy => one_for_one, intensity => 1, period => 5}, [Handlers]}}.
