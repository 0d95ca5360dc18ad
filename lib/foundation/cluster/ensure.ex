defmodule Foundation.Cluster.Ensure do
  @moduledoc false
  # `Foundation.Cluster.ensure/4`: the home node of a key starts its process.
  #
  # Callers of one key on all nodes meet in this process on the home node. The first one's function
  # runs in a process of its own, under the registry's lock of the key. If this process is killed,
  # the runner goes on, and a second runner waits for it.

  use GenServer

  alias Foundation.Cluster
  alias Foundation.Cluster.{Config, Replica, Replicator}
  alias Foundation.{Registry, RetryingCall}

  @poll_ms 5

  # The home may take so much longer to answer than the caller allows for the function.
  @answer_ms 1_000

  @type outcome :: {:ok, pid} | {:error, term} | {:raised, :error | :exit | :throw, term, list}

  def start_link(config), do: GenServer.start_link(__MODULE__, config, name: config.ensure)

  ## In the caller

  @doc "Asks the key's home, and the next one if that is gone or drains."
  @spec ask(Config.t(), term, {module, atom, list}, term, timeout) :: outcome
  def ask(config, key, mfa, value, timeout) do
    case await_up(config, deadline(timeout)) do
      :ok -> ask_homes(config, homes(config, key), key, mfa, value, timeout)
      :timeout -> {:error, {:unknown, :syncing}}
    end
  end

  defp ask_homes(_config, [], _key, _mfa, _value, _timeout), do: {:error, :draining}

  defp ask_homes(config, [home | homes], key, mfa, value, timeout) do
    arguments = [config.name, key, mfa, value, timeout]

    case call(home, arguments, timeout) do
      :next -> ask_homes(config, homes, key, mfa, value, timeout)
      outcome -> outcome
    end
  end

  defp call(home, arguments, timeout) do
    :erpc.call(home, __MODULE__, :run, arguments, timeout + @answer_ms)
  catch
    :error, {:erpc, :noconnection} -> :next
    :error, {:erpc, reason} -> {:error, reason}
  end

  @doc "The members that may be the key's home, the likeliest first (rendezvous hashing)."
  @spec homes(Config.t(), term) :: [node]
  def homes(config, key) do
    {_members, homes} = Replicator.members(config)
    Enum.sort_by(homes, &{:erlang.phash2({&1, key}), &1}, :desc)
  end

  defp await_up(config, deadline) do
    cond do
      Config.state(config) != :syncing ->
        :ok

      now() > deadline ->
        :timeout

      true ->
        Process.sleep(@poll_ms)
        await_up(config, deadline)
    end
  end

  defp deadline(timeout), do: now() + timeout
  defp now, do: System.monotonic_time(:millisecond)

  ## On the home node

  @doc false
  @spec run(atom, term, {module, atom, list}, term, timeout) :: outcome | :next
  def run(cluster, key, mfa, value, timeout) do
    with {:ok, config} <- Config.fetch(cluster),
         false <- Config.draining?(config),
         :ok <- await_up(config, deadline(timeout)) do
      RetryingCall.call(config.ensure, {:ensure, key, mfa, value})
    else
      :timeout -> {:error, {:unknown, :syncing}}
      _drains_or_does_not_run -> :next
    end
  end

  # State: the callers of each key whose function runs, in the order they came, and the key of each
  # runner.

  @impl true
  def init(config), do: {:ok, %{config: config, callers: %{}, runners: %{}}}

  @impl true
  def handle_call({:ensure, key, mfa, value}, from, state) do
    case state.callers do
      %{^key => callers} -> {:noreply, put_in(state.callers[key], callers ++ [from])}
      %{} -> {:noreply, start(state, key, mfa, value, from)}
    end
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:outcome, runner, outcome}, state),
    do: {:noreply, finish(state, runner, outcome)}

  def handle_info({:DOWN, _ref, :process, runner, reason}, state),
    do: {:noreply, finish(state, runner, {:error, reason})}

  def handle_info(_unknown, state), do: {:noreply, state}

  defp start(state, key, mfa, value, from) do
    server = self()
    config = state.config

    {runner, _ref} =
      spawn_monitor(fn -> send(server, {:outcome, self(), find(config, key, mfa, value)}) end)

    %{
      state
      | callers: Map.put(state.callers, key, [from]),
        runners: Map.put(state.runners, runner, key)
    }
  end

  defp finish(state, runner, outcome) do
    case Map.pop(state.runners, runner) do
      # The end of a runner whose outcome is known.
      {nil, _runners} ->
        state

      {key, runners} ->
        {[first | others], callers} = Map.pop!(state.callers, key)
        GenServer.reply(first, outcome)
        for other <- others, do: GenServer.reply(other, shared(outcome))
        %{state | runners: runners, callers: callers}
    end
  end

  # A raise is raised in the caller whose function it was.
  defp shared({:raised, :error, reason, stacktrace}),
    do: {:error, Exception.normalize(:error, reason, stacktrace)}

  defp shared({:raised, _kind, reason, _stacktrace}), do: {:error, reason}
  defp shared(outcome), do: outcome

  defp find(config, key, mfa, value) do
    Registry.lock(config.name, {__MODULE__, key}, fn ->
      case Replica.get(config, key) do
        {pid, _stamp, _value} -> {:ok, pid}
        nil -> create(config, key, mfa, value)
      end
    end)
  end

  defp create(config, key, {module, function, arguments}, value) do
    case apply(module, function, arguments) do
      {:ok, pid} when is_pid(pid) -> register(config, pid, key, value)
      {:ok, pid, _info} when is_pid(pid) -> register(config, pid, key, value)
      {:error, {:already_started, pid}} when is_pid(pid) -> register(config, pid, key, value)
      {:error, _reason} = error -> error
      other -> {:error, {:bad_return_value, other}}
    end
  catch
    kind, reason -> {:raised, kind, reason, __STACKTRACE__}
  end

  defp register(_config, pid, _key, _value) when node(pid) != node(),
    do: {:error, {:not_local, pid}}

  defp register(config, pid, key, value) do
    # The runner ends, and its process must not end with it.
    Process.unlink(pid)

    case Cluster.register_for(config.name, pid, key, value) do
      {:ok, _owner} -> {:ok, pid}
      {:error, {:already_registered, ^pid}} -> {:ok, pid}
      {:error, reason} -> give_up(pid, reason)
    end
  end

  defp give_up(pid, reason) do
    Process.exit(pid, :shutdown)

    case reason do
      {:already_registered, other} -> {:ok, other}
      reason -> {:error, reason}
    end
  end
end
