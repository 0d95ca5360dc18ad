defmodule Foundation.Telemetry.Events.Backends.ETS do
  @moduledoc false
  # Windows, batches and strategies over ETS, without a process between caller and table.
  #
  #   :sampled_events_state    set: {{:window, key}, expires, seq}, {{:event, name}, own settings},
  #                            {{:counts, name}, emitted, suppressed, sampled_out, dropped, appended},
  #                            {{:acked, name}, count, keys},
  #                            {{:strategy, key}, version, name, strategy, state, sampled, out},
  #                            {:settings, settings}, {:evicted, n}, {{:evicted, name}, n},
  #                            {:sealed, true}
  #   :sampled_events_order    ordered_set: {seq, key, expires, name}, the windows as they were opened
  #   :sampled_events_batches  ordered_set: {{name, seq}, at, measurements, metadata}
  #
  # Exclusive decisions are compare-and-set (`select_replace`) on a row with a bound key. A bound
  # key must not be read as a pattern, but names and dedup keys may contain `:_` or maps. Such a
  # key is therefore stored in the external term format, as a binary.

  @behaviour Foundation.Telemetry.Events.Backend

  alias Foundation.LiveTable
  alias Foundation.Telemetry.Events.{Backend, Settings}
  alias Foundation.Telemetry.Sampler.Strategy

  @state :sampled_events_state
  @order :sampled_events_order
  @batches :sampled_events_batches

  # Positions in a row of counts.
  @emitted 2
  @suppressed 3
  @sampled_out 4
  @dropped 5
  @appended 6

  # Keys past this many bytes are kept as their digest: a bound on windows is one on memory.
  @longest_key 256
  # Sequence numbers come from unique_integer/1, whose first are negative.
  @before_all -0x1_0000_0000_0000_0000

  @impl true
  def exists? do
    not sealed?()
  rescue
    # There is no table to ask.
    ArgumentError -> false
  end

  defp sealed?, do: :ets.member(@state, :sealed)

  @impl true
  def open(%Settings{} = settings) do
    # The bounds are read off the tables' sizes at each event: where counters are decentralized
    # (what write_concurrency brings with it) asking for a size halts all schedulers' writers.
    options = [
      :named_table,
      :public,
      write_concurrency: true,
      read_concurrency: true,
      decentralized_counters: false
    ]

    :ets.new(@order, [:ordered_set | options])
    :ets.new(@batches, [:ordered_set | options])
    # Named last and filled before, because its existence says that all is there.
    :ets.new(:sampled_events_opening, [:set | options])
    :ets.insert(:sampled_events_opening, [{:evicted, 0}, {:settings, settings}])
    :ets.rename(:sampled_events_opening, @state)
    :created
  end

  @impl true
  def seal do
    :ets.insert(@state, {:sealed, true})
    :ok
  end

  @impl true
  def close do
    # The state table goes first, because callers look for it first.
    Enum.each([@state, @order, @batches], &:ets.delete/1)
  end

  ## Windows

  @impl true
  def admit(name, key, window) do
    if opens?(name, external({name, key}), window || settings(name).window) do
      if sample?(name), do: counted(name, @emitted, :emit), else: counted(name, @sampled_out, :ok)
    else
      counted(name, @suppressed, :ok)
    end
  end

  defp opens?(name, key, window) do
    now = now()

    case :ets.lookup(@state, {:window, key}) do
      [{_key, expires, _seq}] when now < expires -> false
      [{_key, expires, seq}] -> reopen(name, key, {expires, seq}, now, window)
      [] -> open_new(name, key, now, window)
    end
  end

  defp reopen(name, key, {expires, seq}, now, window) do
    fresh = {{:window, key}, now + window * 1_000_000, seq()}
    old = {{:window, key}, expires, seq}

    case :ets.select_replace(@state, [{old, [], [{:const, fresh}]}]) do
      1 ->
        :ets.delete(@order, seq)
        opened(name, fresh)

      # Someone else was first, or the window was swept: look again.
      0 ->
        opens?(name, key, window)
    end
  end

  defp open_new(name, key, now, window) do
    fresh = {{:window, key}, now + window * 1_000_000, seq()}
    if :ets.insert_new(@state, fresh), do: opened(name, fresh), else: opens?(name, key, window)
  end

  defp opened(name, {{:window, key}, expires, seq}) do
    :ets.insert(@order, {seq, key, expires, name})
    if LiveTable.size(@order) > global().max_windows, do: evict(:ets.first(@order))
    true
  end

  # Two callers may evict one window each where one would do: the bound is kept, the oldest go.
  defp evict(:"$end_of_table"), do: :ok

  defp evict(seq) do
    now = now()

    case :ets.take(@order, seq) do
      [{^seq, key, expires, name}] ->
        close_window(key, expires, seq)
        if now < expires, do: count_evicted(name)
        :ok

      [] ->
        evict(:ets.first(@order))
    end
  end

  defp count_evicted(name) do
    :ets.update_counter(@state, :evicted, 1)
    :ets.update_counter(@state, {:evicted, name}, 1, {{:evicted, name}, 0})
  end

  defp close_window(key, expires, seq) do
    :ets.select_delete(@state, [{{{:window, key}, expires, seq}, [], [true]}])
  end

  # This engine orders windows by their opening only. A sweep walks all of them, outside the
  # caller's path. (The native engine keeps one order for each duration and visits only expired
  # windows.)
  @impl true
  def sweep do
    now = now()
    spec = [{{:"$1", :"$2", :"$3", :_}, [{:"=<", :"$3", now}], [{{:"$1", :"$2", :"$3"}}]}]
    sweep(:ets.select(@order, spec, 500))
  end

  defp sweep(:"$end_of_table"), do: :ok

  defp sweep({rows, continuation}) do
    Enum.each(rows, fn {seq, key, expires} ->
      :ets.delete(@order, seq)
      close_window(key, expires, seq)
    end)

    sweep(:ets.select(continuation))
  end

  @impl true
  def windows do
    [{:evicted, evicted}] = :ets.lookup(@state, :evicted)
    %{windows: LiveTable.size(@order), evicted: evicted}
  end

  # Counted when asked for: opening and closing a window stay as cheap as they are.
  @impl true
  def windows(name) do
    spec = [{{:_, :_, :_, :"$1"}, [{:"=:=", :"$1", {:const, name}}], [true]}]

    evicted =
      case :ets.lookup(@state, {:evicted, name}) do
        [{_key, evicted}] -> evicted
        [] -> 0
      end

    %{windows: :ets.select_count(@order, spec), evicted: evicted}
  end

  ## Batches

  @impl true
  def append(name, measurements, metadata) do
    cond do
      not sample?(name) ->
        counted(name, @sampled_out, :ok)

      LiveTable.size(@batches) >= global().max_pending ->
        counted(name, @dropped, :ok)

      true ->
        key = {name, seq()}
        :ets.insert(@batches, {key, :erlang.system_time(), measurements, metadata})
        queued = count_up(name, @appended, 1) - acked(name)
        if sealed?(), do: take_back(key), else: edge(queued, name)
    end
  end

  # Sealed meanwhile: the caller and the closing owner race for the event. The one that takes it
  # out of the table emits it.
  defp take_back(key), do: if(:ets.take(@batches, key) == [], do: :ok, else: :alone)

  defp edge(queued, name) do
    case settings(name).batch_size do
      ^queued -> :full
      _size when queued == 1 -> :first
      _size -> :ok
    end
  end

  @impl true
  def peek(name, limit) do
    # Events that a processor acknowledged before it was killed must still be deleted.
    with [{_key, _count, keys}] <- :ets.lookup(@state, {:acked, name}), do: delete(keys)

    keys = keys(name, limit, {name, @before_all})
    read = if sealed?(), do: &:ets.take/2, else: &:ets.lookup/2
    rows = Enum.flat_map(keys, &read.(@batches, &1))
    {for({_key, at, measurements, metadata} <- rows, do: {at, measurements, metadata}), keys}
  end

  defp keys(_name, 0, _key), do: []

  defp keys(name, limit, key) do
    case :ets.next(@batches, key) do
      {^name, _seq} = next -> [next | keys(name, limit - 1, next)]
      _other -> []
    end
  end

  # One insertion moves the whole batch from pending to emitted. After a kill before it, the
  # successor emits the batch again. After a kill behind it, the batch is not counted again.
  @impl true
  def ack(name, keys) do
    :ets.insert(@state, {{:acked, name}, acked(name) + length(keys), keys})
    delete(keys)
  end

  defp delete(keys), do: Enum.each(keys, &:ets.delete(@batches, &1))

  defp acked(name) do
    case :ets.lookup(@state, {:acked, name}) do
      [{_key, count, _keys}] -> count
      [] -> 0
    end
  end

  ## Counts and settings

  @impl true
  def count(name, :emitted), do: counted(name, @emitted, :ok)
  def count(name, :suppressed), do: counted(name, @suppressed, :ok)
  def count(name, :sampled_out), do: counted(name, @sampled_out, :ok)

  defp counted(name, position, answer) do
    count_up(name, position, 1)
    answer
  end

  defp count_up(name, position, n) do
    row = {{:counts, name}, 0, 0, 0, 0, 0}
    :ets.update_counter(@state, {:counts, name}, {position, n}, row)
  end

  @impl true
  def totals(name) do
    # Before the counts: what was acknowledged later than those were read waits in them.
    acked = acked(name)

    case :ets.lookup(@state, {:counts, name}) do
      [row] -> totals_of(row, acked)
      [] -> Backend.zero()
    end
  end

  @impl true
  def totals do
    rows = :ets.match(@state, {{:counts, :"$1"}, :_, :_, :_, :_, :_})
    for [name] <- rows, do: {name, totals(name)}
  end

  defp totals_of({_key, emitted, suppressed, sampled_out, dropped, appended}, acked) do
    # An event can be emitted before its caller gets to count it as appended.
    acked = min(acked, appended)

    %{
      emitted: emitted + acked,
      suppressed: suppressed,
      sampled_out: sampled_out,
      dropped: dropped,
      pending: appended - acked
    }
  end

  @impl true
  def configure(name, own) do
    # Configuration is rare, and two callers that configure one event at once have no order.
    earlier =
      case :ets.lookup(@state, {:event, name}) do
        [{_key, own}] -> own
        [] -> %{}
      end

    :ets.insert(@state, {{:event, name}, Map.merge(earlier, Map.new(own))})
    :ok
  end

  @impl true
  def settings(name) do
    case :ets.lookup(@state, {:event, name}) do
      [{_key, own}] -> Map.merge(global(), own)
      [] -> global()
    end
  end

  defp global do
    [{:settings, settings}] = :ets.lookup(@state, :settings)
    settings
  end

  ## Strategies

  @impl true
  def configure_strategy(name, strategy) do
    {sampled, out} = counts_of(external(name))

    row =
      {{:strategy, external(name)}, seq(), name, strategy, Strategy.new(strategy), sampled, out}

    :ets.insert(@state, row)
    :ok
  end

  defp counts_of(key) do
    case :ets.lookup(@state, {:strategy, key}) do
      [{_key, _version, _name, _strategy, _state, sampled, out}] -> {sampled, out}
      [] -> {0, 0}
    end
  end

  @impl true
  def sample?(name) do
    case :ets.lookup(@state, {:strategy, external(name)}) do
      [row] -> decide(row)
      [] -> true
    end
  end

  defp decide({key, version, name, strategy, state, sampled, out}) do
    {sampled?, state} = Strategy.decide(strategy, state, now())
    counts = if sampled?, do: {sampled + 1, out}, else: {sampled, out + 1}
    row = {key, seq(), name, strategy, state, elem(counts, 0), elem(counts, 1)}

    # The version is unique, so that it alone says whether anyone decided meanwhile.
    spec = [{{key, version, :_, :_, :_, :_, :_}, [], [{:const, row}]}]
    if :ets.select_replace(@state, spec) == 1, do: sampled?, else: sample?(name)
  end

  @impl true
  def sampled(name) do
    case :ets.lookup(@state, {:strategy, external(name)}) do
      [row] -> elem(sampled_of(row), 1)
      [] -> %{sampled: 0, sampled_out: 0, strategy: :always}
    end
  end

  @impl true
  def sampled do
    @state
    |> :ets.match_object({{:strategy, :_}, :_, :_, :_, :_, :_, :_})
    |> Enum.map(&sampled_of/1)
  end

  defp sampled_of({_key, _version, name, strategy, _state, sampled, out}) do
    {name, %{sampled: sampled, sampled_out: out, strategy: strategy}}
  end

  @impl true
  def reset_sampled do
    @state
    |> :ets.match_object({{:strategy, :_}, :_, :_, :_, :_, :_, :_})
    |> Enum.each(fn {key, _version, name, strategy, _state, _sampled, _out} ->
      :ets.insert(@state, {key, seq(), name, strategy, Strategy.new(strategy), 0, 0})
    end)
  end

  ## Keys, times, order

  defp external(term) do
    case :erlang.term_to_binary(term) do
      short when byte_size(short) <= @longest_key -> short
      long -> {:digest, :erlang.md5(long)}
    end
  end

  defp seq, do: :erlang.unique_integer([:monotonic])
  defp now, do: :erlang.monotonic_time(:nanosecond)
end
