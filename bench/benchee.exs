# The main comparisons in Benchee, for readers who know it:
#
#     mix run bench/benchee.exs                         all of them
#     mix run bench/benchee.exs --time 1 lookup dedup   these, for a second each
#
# Each function does 1,000 operations in a row. `script/bench` measures more exactly: it pins both
# sides to one scheduler, lets them take turns, and subtracts the cost of the loop.

unless Code.ensure_loaded?(Benchee) do
  Mix.raise("bench/benchee.exs needs the package :benchee: run mix deps.get, which needs Hex")
end

defmodule Foundation.BencheeScript do
  @moduledoc false

  alias Foundation.Cache
  alias Foundation.Telemetry.SampledEvents

  @operations 1_000
  @sizes [1_000, 100_000]
  @event [:benchee, :event]
  @ms 600_000

  def groups do
    [lookup: &lookup/0, whereis: &whereis/0, register: &register/0] ++
      [dispatch: &dispatch/0, dedup: &dedup/0, cache: &cache/0]
  end

  defp lookup do
    fill = fn size ->
      {keys, ours, theirs, ets} = {keys(size), ours(:unique), theirs(:unique), ets()}

      for key <- keys do
        {:ok, _pid} = Foundation.Registry.register(ours, key, key)
        {:ok, _pid} = Registry.register(theirs, key, key)
        true = :ets.insert(ets, {key, self(), key})
      end

      {sample(keys), ours, theirs, ets}
    end

    {%{
       "Foundation.Registry.lookup/2" => fn {keys, ours, _, _} ->
         for key <- keys, do: [{_pid, ^key}] = Foundation.Registry.lookup(ours, key)
       end,
       "Registry.lookup/2" => fn {keys, _, theirs, _} ->
         for key <- keys, do: [{_pid, ^key}] = Registry.lookup(theirs, key)
       end,
       ":ets.lookup/2" => fn {keys, _, _, ets} ->
         for key <- keys, do: [{^key, _pid, ^key}] = :ets.lookup(ets, key)
       end
     }, inputs(fill)}
  end

  defp whereis do
    fill = fn size ->
      {keys, ours, theirs} = {keys(size), ours(:unique), theirs(:unique)}
      for key <- keys, do: {:ok, _pid} = Foundation.Registry.register(ours, key, nil)
      for key <- keys, do: {:ok, _pid} = Registry.register(theirs, key, nil)
      {sample(keys), ours, theirs, self()}
    end

    {%{
       "Foundation.Registry.whereis_name/1" => fn {keys, ours, _, pid} ->
         for key <- keys, do: ^pid = Foundation.Registry.whereis_name({ours, key})
       end,
       "Registry.whereis_name/1" => fn {keys, _, theirs, pid} ->
         for key <- keys, do: ^pid = Registry.whereis_name({theirs, key})
       end
     }, inputs(fill)}
  end

  defp register do
    fill = fn _size -> {Enum.to_list(1..@operations), ours(:unique), theirs(:unique), ets()} end

    {%{
       "Foundation.Registry: register, unregister" => fn {keys, ours, _, _} ->
         for key <- keys, do: {:ok, _pid} = Foundation.Registry.register(ours, key, nil)
         for key <- keys, do: :ok = Foundation.Registry.unregister(ours, key)
       end,
       "Registry: register, unregister" => fn {keys, _, theirs, _} ->
         for key <- keys, do: {:ok, _pid} = Registry.register(theirs, key, nil)
         for key <- keys, do: :ok = Registry.unregister(theirs, key)
       end,
       "ETS: insert_new, delete" => fn {keys, _, _, ets} ->
         for key <- keys, do: true = :ets.insert_new(ets, {key, self(), nil})
         for key <- keys, do: true = :ets.delete(ets, key)
       end
     }, %{"1,000 keys" => fill.(@operations)}}
  end

  # A topic with 1,000 entries.
  defp dispatch do
    {ours, theirs} = {ours(:duplicate), theirs(:duplicate)}
    for n <- 1..@operations, do: {:ok, _pid} = Foundation.Registry.register(ours, :topic, n)
    for n <- 1..@operations, do: {:ok, _pid} = Registry.register(theirs, :topic, n)
    count = fn entries -> @operations = length(entries) end

    {%{
       "Foundation.Registry.dispatch/3" => fn {ours, _} ->
         :ok = Foundation.Registry.dispatch(ours, :topic, count)
       end,
       "Registry.dispatch/3" => fn {_, theirs} ->
         :ok = Registry.dispatch(theirs, :topic, count)
       end
     }, %{"1,000 entries" => {ours, theirs}}}
  end

  defp dedup do
    fill = fn size ->
      {keys, ets} = {keys(size), ets()}
      for key <- keys, do: SampledEvents.emit_event(@event, %{}, %{}, dedup(key))
      for key <- keys, do: true = :ets.insert(ets, {key, now() + @ms})
      {sample(keys), ets}
    end

    {%{
       "SampledEvents.emit_event/4, suppressed" => fn {keys, _ets} ->
         for key <- keys, do: SampledEvents.emit_event(@event, %{}, %{}, dedup(key))
       end,
       "ETS: lookup, clock, comparison" => fn {keys, ets} ->
         for key <- keys do
           [{_key, until}] = :ets.lookup(ets, key)
           true = now() < until
         end
       end
     }, %{"1,000 keys" => fill.(1_000), "10,000 keys" => fill.(10_000)}}
  end

  defp dedup(key), do: [dedup_key: key, window: @ms]

  defp cache do
    fill = fn size ->
      {keys, ets, cache} = {keys(size), ets(), unique("cache")}
      {:ok, _pid} = Cache.start_link(name: cache, max_bytes: 100_000_000, ttl: @ms)
      for key <- keys, do: :ok = Cache.put(cache, key, key)
      for key <- keys, do: true = :ets.insert(ets, {key, key, now() + @ms})
      {sample(keys), cache, ets}
    end

    {%{
       "Foundation.Cache.fetch/3, a hit" => fn {keys, cache, _ets} ->
         for key <- keys, do: {:ok, ^key} = Cache.fetch(cache, key, &load/1)
       end,
       "ETS: lookup, clock, comparison" => fn {keys, _cache, ets} ->
         for key <- keys do
           [{_key, ^key, until}] = :ets.lookup(ets, key)
           true = now() < until
         end
       end
     }, inputs(fill)}
  end

  defp load(key), do: raise("#{key} is not in the cache")

  defp inputs(fill), do: Map.new(@sizes, &{"#{&1} keys", fill.(&1)})

  defp keys(size), do: Enum.map(1..size, &"key-#{&1}")
  defp sample(keys), do: Enum.take_random(keys, @operations)
  defp now, do: System.monotonic_time(:millisecond)

  defp ours(keys) do
    {:ok, _pid} = Foundation.Registry.start_link(keys: keys, name: name = unique("ours"))
    name
  end

  defp theirs(keys) do
    {:ok, _pid} = Registry.start_link(keys: keys, name: name = unique("theirs"))
    name
  end

  defp ets, do: :ets.new(unique("ets"), [:named_table, :public, read_concurrency: true])
  defp unique(prefix), do: :"benchee_#{prefix}_#{System.unique_integer([:positive])}"
end

{options, names} = OptionParser.parse!(System.argv(), strict: [time: :float])
time = Keyword.get(options, :time, 5.0)
groups = Foundation.BencheeScript.groups()
known = for {name, _group} <- groups, do: Atom.to_string(name)

if unknown = Enum.find(names, &(&1 not in known)) do
  Mix.raise("unknown comparison: #{unknown} (there are #{Enum.join(known, ", ")})")
end

for {name, group} <- groups, names == [] or Atom.to_string(name) in names do
  {jobs, inputs} = group.()
  Benchee.run(jobs, inputs: inputs, time: time, warmup: min(time, 2.0), title: "#{name}")
end
