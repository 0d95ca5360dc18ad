defmodule Foundation.EventLog.Aggregate.Server do
  @moduledoc false
  # The process of an aggregate.
  #
  # It is idle, or one append is under way. Commands that come meanwhile wait. When the append is
  # answered, the waiting commands are decided in turn. Each sees the events of those before it. All
  # of their events are one append: atomic, with one expected version.
  #
  # One append for each command, without waiting for the one before, would be wrong. Say that A and
  # B are sent so, and another writer appends as many events as A has, before A. Then A fails, and
  # the version that B expects is there: B would succeed, decided on events of A that never were.

  use GenServer

  alias Foundation.EventLog.{Reader, Writer}
  alias Foundation.{EventLog, Options}

  # How often a batch is decided again after it lost a race.
  @attempts 10
  # A batch has this many commands at most.
  @batch 1_000
  @chunk 500

  @schema [
    log: nil,
    stream: nil,
    id: nil,
    name: nil,
    snapshot_every: 100
  ]

  # `state` and `version` have all events that are durable. `waiting` has the commands that came
  # meanwhile. `batch` has the commands of the append under way, their answers, and the state after
  # them.
  @enforce_keys [:module, :log, :stream, :state, :version, :snapshot, :snapshot_every]
  defstruct [
    :module,
    :log,
    :stream,
    :state,
    :version,
    :snapshot,
    :snapshot_every,
    :batch,
    waiting: :queue.new(),
    flushing: false
  ]

  @spec start_link(module, keyword) :: GenServer.on_start()
  def start_link(module, options) do
    options = validate!(options)
    named = if options[:name], do: [name: options[:name]], else: []
    GenServer.start_link(__MODULE__, {module, options}, named)
  end

  defp validate!(options) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of an aggregate to be a keyword list, got: #{inspect(options)}"
    end

    for {key, _value} <- options, not Keyword.has_key?(@schema, key) do
      raise ArgumentError, Options.unknown(key, @schema, "the options of an aggregate")
    end

    options = Keyword.merge(@schema, options)

    unless is_atom(options[:log]) and options[:log] != nil do
      raise ArgumentError,
            "expected :log of an aggregate to be the name of an event log, " <>
              "got: #{inspect(options[:log])}"
    end

    unless is_binary(options[:stream]) and byte_size(options[:stream]) in 1..255 do
      raise ArgumentError,
            "expected :stream of an aggregate to be a string of 1 to 255 bytes, " <>
              "got: #{inspect(options[:stream])}"
    end

    unless is_integer(options[:snapshot_every]) and options[:snapshot_every] > 0 do
      raise ArgumentError,
            "expected :snapshot_every of an aggregate to be a positive integer, " <>
              "got: #{inspect(options[:snapshot_every])}"
    end

    options
  end

  @impl true
  def init({module, options}) do
    %{log: log, stream: stream, id: id, snapshot_every: every} = Map.new(options)

    {version, state} =
      case EventLog.get_snapshot(log, stream) do
        {:ok, version, state} -> {version, state}
        :error -> {0, module.init(if(id == nil, do: stream, else: id))}
      end

    server = %__MODULE__{
      module: module,
      log: log,
      stream: stream,
      state: state,
      version: version,
      snapshot: version,
      snapshot_every: every
    }

    # A predecessor may have been killed between a command's append and its snapshot.
    {:ok, server |> refresh() |> snapshot()}
  rescue
    error in [ArgumentError, EventLog.ReadError] -> {:stop, error}
  end

  # Folds the events in that are newer than the state. The version of a stream whose events were
  # removed is higher than that of the last event which is left.
  #
  # The newest version is read before the events. If it were read after them, another writer could
  # append an event in between. Its version would be taken, and the state would never get the event.
  defp refresh(server) do
    newest = Reader.newest(server.log, server.stream)
    server = fold_from(server, server.version + 1)
    %{server | version: max(server.version, newest)}
  end

  defp fold_from(server, nil), do: server

  defp fold_from(server, from) do
    {events, next} = Reader.chunk(server.log, server.stream, from, Reader.last(), @chunk)

    events
    |> Enum.reduce(server, fn event, server ->
      state = server.module.apply_event({event.type, event.data, event.metadata}, server.state)
      %{server | state: state, version: event.version}
    end)
    |> fold_from(next)
  end

  @impl true
  def handle_call({:execute, command}, from, server) do
    server = %{server | waiting: :queue.in({from, command}, server.waiting)}
    {:noreply, flush_later(server)}
  end

  def handle_call(_unknown, _from, server), do: {:reply, {:error, :unknown_call}, server}

  @impl true
  def handle_cast(_other, server), do: {:noreply, server}

  # The message goes behind the commands that are in the mailbox already: they join the batch.
  defp flush_later(%{batch: nil, flushing: false} = server) do
    send(self(), {__MODULE__, :flush})
    %{server | flushing: true}
  end

  defp flush_later(server), do: server

  @impl true
  def handle_info({__MODULE__, :flush}, %{batch: nil} = server),
    do: {:noreply, next(%{server | flushing: false})}

  def handle_info({reference, answer, commit}, %{batch: %{reference: reference}} = server) do
    case Writer.answered(server.log, answer, commit) do
      {:ok, _version} -> {:noreply, server |> committed() |> snapshot() |> next()}
      {:error, reason} -> {:noreply, failed(server, reason)}
    end
  end

  def handle_info(_other, server), do: {:noreply, server}

  # Takes the commands that wait, and decides them.
  defp next(server) do
    if :queue.is_empty(server.waiting) do
      server
    else
      {commands, waiting} = :queue.split(min(:queue.len(server.waiting), @batch), server.waiting)
      decide(current(%{server | waiting: waiting}), :queue.to_list(commands), 1)
    end
  end

  # A rejection appends nothing, so no expected version would show that it was decided on an old
  # state.
  defp current(server) do
    newest = Reader.newest(server.log, server.stream)
    if newest > server.version, do: refresh(server), else: server
  end

  defp decide(server, commands, attempt) do
    batch = %{
      state: server.state,
      version: server.version,
      events: [],
      answers: [],
      commands: commands,
      attempt: attempt,
      reference: nil
    }

    {batch, rest} = decide_each(server, batch, commands)
    # The rest is decided after a snapshot.
    waiting = Enum.reduce(Enum.reverse(rest), server.waiting, &:queue.in_r/2)
    commands = Enum.take(commands, length(commands) - length(rest))
    write(%{server | waiting: waiting}, %{batch | commands: commands})
  end

  defp decide_each(_server, batch, []), do: {batch, []}

  defp decide_each(server, batch, [{from, command} | rest] = commands) do
    if batch.version - server.snapshot >= server.snapshot_every and batch.events != [] do
      {batch, commands}
    else
      batch =
        decide_one(server.module, batch, from, server.module.handle_command(command, batch.state))

      decide_each(server, batch, rest)
    end
  end

  defp decide_one(module, batch, from, decision) do
    case decision do
      {:ok, events} ->
        batch = fold(module, batch, events)
        answer(batch, from, {:ok, batch.version})

      {:ok, events, reply} ->
        batch = fold(module, batch, events)
        answer(batch, from, {:ok, batch.version, reply})

      {:error, reason} ->
        answer(batch, from, {:error, reason})
    end
  end

  defp fold(module, batch, events) do
    encoded = Writer.encode!(events)

    state =
      Enum.reduce(events, batch.state, fn
        {type, data}, state -> module.apply_event({type, data, %{}}, state)
        event, state -> module.apply_event(event, state)
      end)

    %{
      batch
      | state: state,
        version: batch.version + length(encoded),
        events: [encoded | batch.events]
    }
  end

  defp answer(batch, from, answer), do: %{batch | answers: [{from, answer} | batch.answers]}

  defp write(server, batch) do
    case batch.events |> Enum.reverse() |> Enum.concat() do
      [] ->
        # Nothing was decided that is not durable: the state is as it was.
        reply(batch.answers)
        next(%{server | batch: nil})

      events ->
        reference = Writer.send_append(server.log, server.stream, server.version, events)
        %{server | batch: %{batch | reference: reference}}
    end
  end

  defp committed(%{batch: batch} = server) do
    reply(batch.answers)
    %{server | state: batch.state, version: batch.version, batch: nil}
  end

  # Another writer was first: the commands are decided again on what it wrote.
  defp failed(%{batch: %{attempt: attempt} = batch} = server, {:wrong_version, _actual})
       when attempt < @attempts do
    %{server | batch: nil} |> refresh() |> decide(batch.commands, attempt + 1)
  end

  defp failed(%{batch: batch} = server, reason) do
    reply(for {from, _answer} <- batch.answers, do: {from, {:error, reason}})
    server = %{server | batch: nil}
    server = if match?({:wrong_version, _actual}, reason), do: refresh(server), else: server
    next(server)
  end

  defp reply(answers) do
    for {from, answer} <- Enum.reverse(answers), do: GenServer.reply(from, answer)
  end

  # Before the next command is decided, so that no more than this one is missing in a snapshot.
  defp snapshot(server) do
    if server.version - server.snapshot >= server.snapshot_every do
      case Writer.put_snapshot(server.log, server.stream, server.version, server.state) do
        {:ok, _version} -> %{server | snapshot: server.version}
        # The events are there: the next command tries again.
        {:error, _reason} -> server
      end
    else
      server
    end
  end
end
