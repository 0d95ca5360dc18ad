defmodule Foundation.Cluster.Supervisor do
  @moduledoc false
  # The processes of one cluster on this node.

  use Supervisor

  alias Foundation.Cluster.{Config, Ensure, Fanout, Replica, Replicator}
  alias Foundation.{ChildStart, Predecessor, Registry}

  # A scope of OTP 25's `:pg` may crash several times in a row while scopes restart elsewhere. No
  # restart loses anything, and giving up would stop the cluster on this node.
  @max_restarts 1_000
  @max_seconds 5

  @spec start_link(Config.t()) :: Supervisor.on_start()
  def start_link(%Config{} = config) do
    case Process.whereis(config.supervisor) do
      nil ->
        start(config)

      running ->
        if leaving?(running),
          do: start_link(config),
          else: {:error, {:already_started, running}}
    end
  end

  defp start(config) do
    # Not in init/1, which a code change calls in the supervisor that runs.
    Predecessor.await_gone([config.scope, config.fanout, config.ensure, config.replicator])
    known? = Config.fetch(config.name) != :error
    config = Config.publish(config)

    with {:error, _reason} = error <-
           Supervisor.start_link(__MODULE__, config, name: config.supervisor) do
      if not known?, do: Config.withdraw(config)
      error
    end
  end

  # One whose own supervisor was killed is about to end. When it has begun to, it is linked to its
  # supervisor no more, exactly like one that was unlinked and stays. So only time can tell.
  defp leaving?(running) do
    case Process.info(running, :parent) do
      nil ->
        true

      {:parent, parent} when is_pid(parent) and node(parent) == node() ->
        not Process.alive?(parent) and Predecessor.gone?(running)

      _none ->
        false
    end
  end

  @impl true
  def init(config) do
    registries =
      for options <- Replica.registries(config),
          do: %{id: options[:name], start: {__MODULE__, :start_registry, [options]}}

    scope = %{id: config.scope, start: {:pg, :start_link, [config.scope]}}

    children =
      registries ++
        config.backend.children(config) ++
        [scope, {Fanout, config}, {Ensure, config}, {Replicator, config}]

    # one_for_one: what they share is in the tables, which outlive each of them.
    Supervisor.init(
      Enum.map(children, &ChildStart.again/1),
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end

  @doc false
  def start_registry(options) do
    with {:error, {:already_started, pid}} <- Registry.start_link(options),
         do: {:error, {:name_taken, options[:name], pid}}
  end
end
