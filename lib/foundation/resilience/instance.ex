defmodule Foundation.Resilience.Instance do
  @moduledoc false
  # The common part of bulkheads, circuit breakers and rate limiters: an owner in the user's tree,
  # names with keys, and the choice of an engine.

  @behaviour Foundation.Owner

  alias Foundation.{Config, Engine, Native, Owner, Rejected}
  alias Foundation.Resilience.{ETS, Events}

  @type kind :: Native.instance_kind()
  @type target :: atom | {atom, key :: term}
  # `start`: a function of the adopt timeout that starts the instance in the library.
  # `config`: what the ETS engine is started with.
  @type options :: %{
          name: atom,
          kind: kind,
          engine: Engine.t(),
          start: (timeout -> Native.instance_started()),
          config: map
        }

  # The options that every instance has.
  def schema do
    [
      name: [
        type: :atom,
        required: true,
        doc: "The name of the instance, and the registered name of its owner."
      ],
      max_keys: [
        type: {:integer, 1..1_000_000_000},
        default: 10_000,
        doc: """
        The largest number of keys. At the bound a new key takes the place of an idle one. If no
        key is idle, the call is rejected with `:max_keys`.
        """
      ],
      engine: [
        type: {:in, [:native, :ets]},
        default: nil,
        doc: "The engine that keeps the state; by default that of the application."
      ]
    ]
  end

  @spec child_spec(module, keyword) :: Supervisor.child_spec()
  def child_spec(module, options) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of #{inspect(module)} to be a keyword list, " <>
              "got: #{inspect(options)}"
    end

    %{
      id: Keyword.get(options, :name, module),
      start: {module, :start_link, [options]},
      type: :worker
    }
  end

  @spec start_link(kind, keyword, (timeout -> Native.instance_started()), map) ::
          GenServer.on_start()
  def start_link(kind, options, start, config) do
    engine = engine!(options[:engine] || Engine.selected())
    owned = %{name: options[:name], kind: kind, engine: engine, start: start, config: config}
    Owner.start_link(__MODULE__, owned)
  end

  defp engine!(:native) do
    if Native.library_version() == nil,
      do: raise(ArgumentError, "expected :engine to be :ets, for no native library is loaded")

    :native
  end

  defp engine!(:ets), do: :ets

  ## Targets

  @doc "Returns the name of a target; raises for what is none."
  @spec name!(term, kind) :: atom
  def name!(name, _kind) when is_atom(name), do: name
  def name!({name, _key}, _kind) when is_atom(name), do: name

  def name!(other, kind) do
    raise ArgumentError,
          "expected the name of a #{title(kind)} to be an atom or {atom, key}, " <>
            "got: #{inspect(other)}"
  end

  @doc "Returns the target; raises for what is none."
  @spec valid!(term, kind) :: target
  def valid!(name, _kind) when is_atom(name), do: name
  def valid!({name, _key} = target, _kind) when is_atom(name), do: target
  def valid!(other, kind), do: name!(other, kind)

  @spec unknown!(target, kind) :: no_return
  def unknown!(target, kind),
    do: raise(ArgumentError, "unknown #{title(kind)}: #{inspect(name!(target, kind))}")

  @spec rejected(kind, target, atom, non_neg_integer | nil) :: {:error, Rejected.t()}
  def rejected(kind, target, reason, retry_after_ms \\ nil) do
    rejected = %Rejected{by: kind, name: target, reason: reason, retry_after_ms: retry_after_ms}
    {:error, rejected}
  end

  @doc """
  Returns the answer of the library, or that of the ETS engine where the library knows no such
  instance; raises where neither does.
  """
  @spec answer(term, kind, target, term) :: term
  def answer(nil, kind, target, request) do
    case ETS.call(kind, target, request) do
      nil -> unknown!(target, kind)
      answer -> checked(answer, target)
    end
  end

  def answer(answer, _kind, target, _request), do: checked(answer, target)

  defp checked(:system_limit, _target), do: :erlang.error(:system_limit)
  # It is told so where it runs on a dirty scheduler only, and does not go on.
  defp checked(:exiting, _target), do: exit(:killed)
  defp checked(answer, _target), do: answer

  defp title(:bulkhead), do: "bulkhead"
  defp title(:circuit_breaker), do: "circuit breaker"
  defp title(:rate_limiter), do: "rate limiter"

  ## The owner

  @impl true
  def open(%{engine: :native} = owned) do
    # A crash before a change of the engine can have left state in the other one.
    ETS.forget(owned.name)

    case owned.start.(adopt_timeout()) do
      {:error, :system_limit} -> :erlang.error(:system_limit)
      {:error, _reason} = error -> error
      _created_or_adopted -> {:ok, take_transitions(owned)}
    end
  end

  def open(%{engine: :ets} = owned) do
    if Native.resilience_owner(owned.name), do: Native.resilience_stop(owned.name)

    with {:ok, server} <- ETS.open(owned.name, owned.kind, owned.config, adopt_timeout()),
         do: {:ok, Map.put(owned, :server, server)}
  end

  @impl true
  def owner?(name, pid),
    do: match?({_kind, ^pid}, Native.resilience_owner(name)) or ETS.owner?(name, pid)

  @impl true
  def close(%{engine: :native, name: name}), do: Native.resilience_stop(name)
  def close(%{engine: :ets, name: name, server: server}), do: ETS.close(name, server)

  @impl true
  def handle_message({:foundation_resilience, :transitions}, %{engine: :native} = owned),
    do: take_transitions(owned)

  def handle_message(message, %{engine: :ets} = owned),
    do: %{owned | server: ETS.handle_message(message, owned.server)}

  def handle_message(_unknown, owned), do: owned

  @impl true
  def handle_request(request, from, %{engine: :ets} = owned) do
    case ETS.handle_request(request, from, owned.server) do
      {:reply, reply, server} -> {:reply, reply, %{owned | server: server}}
      {:noreply, server} -> {:noreply, %{owned | server: server}}
    end
  end

  def handle_request(_unknown, _from, owned), do: {:reply, {:error, :unknown_call}, owned}

  # Changes of state by deaths. A new owner also takes those that its predecessor did not report.
  defp take_transitions(%{kind: :circuit_breaker, name: name} = owned) do
    for {place, transition} <- Native.breaker_take_transitions(name) || [],
        do: Events.emit(target(name, place), [transition])

    owned
  end

  defp take_transitions(owned), do: owned

  @doc "Returns the target that a place of an instance is."
  @spec target(atom, Native.place()) :: target
  def target(name, :bare), do: name
  def target(name, {:key, key}), do: {name, key}

  defp adopt_timeout, do: Config.get(:registry)[:adopt_timeout]
end
