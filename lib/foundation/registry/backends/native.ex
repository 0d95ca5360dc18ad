defmodule Foundation.Registry.Backends.Native do
  @moduledoc false
  # Calls the native library: loops over its chunks, and one place (`known!/2`) where its answers
  # become return values or raises.

  @behaviour Foundation.Registry.Backend

  alias Foundation.Native
  alias Foundation.Registry.{Backend, MatchSpec, Monitor, Options}

  @impl true
  def start(%Options{} = options) do
    started =
      Native.registry_start(
        options.name,
        options.kind,
        options.partitions,
        options.listeners || left(options),
        options.meta,
        options.adopt_timeout,
        options.max_entries
      )

    case started do
      {:error, :system_limit} -> :erlang.error(:system_limit)
      {:error, _} = error -> error
      how -> {:ok, how, nil}
    end
  end

  # Returns the listeners of the table that its owner is about to adopt.
  defp left(%{name: name, kind: kind}) do
    case Native.registry_config(name) do
      {^kind, _partitions, listeners, _owner} -> listeners
      _other_or_none -> []
    end
  end

  @impl true
  def stop(name, _state) do
    # If the registry is gone already, there is nothing to do.
    _ = Native.registry_stop(name)
    :ok
  end

  @impl true
  def config(name), do: known!(Native.registry_config(name), name)

  @impl true
  def register(name, pid, key, value) when pid == self(),
    do: known!(Native.registry_register(name, key, value), name)

  def register(name, pid, key, value) when node(pid) == node(),
    do: known!(Native.registry_register_for(name, pid, key, value), name)

  # Watch the process twice. Before: if the caller is killed in here, no entry stays unwatched.
  # After: the death may have been reported before the entry was inserted.
  def register(name, pid, key, value) do
    Monitor.watch(name, pid)
    registered = known!(Native.registry_register_for(name, pid, key, value), name)
    Monitor.watch(name, pid)
    registered
  end

  @impl true
  def unregister(name, pid, key),
    do: known!(Native.registry_unregister_for(name, pid, key), name)

  @impl true
  def lookup_many(name, keys) do
    case known!(Native.registry_lookup_many(name, keys), name) do
      {results, []} -> results
      {results, rest} -> results ++ lookup_many(name, rest)
    end
  end

  @impl true
  def keys(name, pid), do: collect(&known!(Native.registry_keys(name, pid, &1), name))

  @impl true
  def entries(name, key, pid), do: known!(Native.registry_entries(name, key, pid), name)

  @impl true
  def remove(name, key, pid, ids), do: known!(Native.registry_remove(name, key, pid, ids), name)

  @impl true
  def replace(name, key, pid, expected, new),
    do: known!(Native.registry_replace(name, key, pid, expected, new), name)

  @impl true
  def update_value(name, key, callback) do
    case known!(Native.registry_fetch(name, key), name) do
      {:ok, old} -> set_value(name, key, callback.(old), old)
      :error -> :error
      :duplicate -> {:not_unique, elem(config(name), 0)}
    end
  end

  # The callback ran once, so its result replaces anything that other processes wrote meanwhile.
  defp set_value(name, key, new, old) do
    case known!(Native.registry_set(name, key, new), name) do
      :ok -> {new, old}
      :error -> :error
    end
  end

  @impl true
  def info(name) do
    {size, keys, processes, memory, drops} = known!(Native.registry_info(name), name)
    %{size: size, keys: keys, processes: processes, memory: memory, drops: drops}
  end

  @impl true
  def chunks(name), do: stream(0, &known!(Native.registry_walk(name, &1), name))

  @impl true
  def key_chunks(name, key) do
    next = &known!(Native.registry_walk_key(name, key, &1), name)

    case next.(0) do
      # Few keys have more entries than a chunk.
      {entries, :done} -> [entries]
      {entries, cursor} -> Stream.concat([entries], stream(cursor, next))
    end
  end

  # Streams the chunks that `next` returns for a cursor, from the first to the one with `:done`.
  defp stream(cursor, next) do
    Stream.unfold(cursor, fn
      :done -> nil
      cursor -> next.(cursor)
    end)
  end

  @impl true
  def match(name, key, pattern, guards),
    do: MatchSpec.match(__MODULE__, name, key, pattern, guards)

  @impl true
  def count_match(name, key, pattern, guards),
    do: MatchSpec.count_match(__MODULE__, name, key, pattern, guards)

  @impl true
  def select(name, spec, function), do: MatchSpec.select(__MODULE__, name, spec, function)

  @impl true
  def count_select(name, spec, function),
    do: MatchSpec.count_select(__MODULE__, name, spec, function)

  @impl true
  def broadcast(name, key, message), do: broadcast(name, key, message, 0, 0)

  defp broadcast(_name, _key, _message, :done, sent), do: sent

  defp broadcast(name, key, message, cursor, sent) do
    {local, remote, cursor} = known!(Native.registry_broadcast(name, key, message, cursor), name)
    Enum.each(remote, &send(&1, message))
    broadcast(name, key, message, cursor, sent + local + length(remote))
  end

  @impl true
  def delete_meta(name, key), do: known!(Native.registry_delete_meta(name, key), name)

  defp collect(chunk, cursor \\ 0) do
    case chunk.(cursor) do
      {items, :done} -> items
      {items, cursor} -> items ++ collect(chunk, cursor)
    end
  end

  # `nil`: the table existed when the caller asked for its engine, and is gone now.
  defp known!(nil, name), do: Backend.unknown!(name)
  defp known!({:error, :system_limit}, _name), do: :erlang.error(:system_limit)
  defp known!(result, _name), do: result
end
