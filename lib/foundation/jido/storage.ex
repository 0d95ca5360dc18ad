# For those who have Jido: it is an optional dependency.
if match?({:module, _}, Code.ensure_compiled(Jido.Storage)) do
  defmodule Foundation.Jido.Storage do
    @external_resource Path.join(__DIR__, "storage.md")
    @moduledoc File.read!(Path.join(__DIR__, "storage.md"))

    @behaviour Jido.Storage

    alias Foundation.{EventLog, RequestContext}
    alias Jido.Thread
    alias Jido.Thread.Entry

    @all 2 ** 62
    @stream_max 255
    @deleted {:thread_deleted, nil, %{deleted: true}}

    @doc """
    Returns a checkpoint as `{:ok, data}`, or `:not_found`.

    **Cost:** one read of the log.

        iex> Foundation.Jido.Storage.get_checkpoint({MyAgent, "1"}, log: start_log())
        :not_found
    """
    @doc since: "0.1.0"
    @impl true
    @spec get_checkpoint(term, keyword) :: {:ok, term} | :not_found | {:error, term}
    def get_checkpoint(key, options) do
      reading(fn ->
        case EventLog.get_snapshot(log!(options), checkpoint(key)) do
          {:ok, _version, data} -> {:ok, data}
          :error -> :not_found
        end
      end)
    end

    @doc """
    Stores a checkpoint, any term of up to 500 MB, in place of the one under its key.

    **Cost:** one `fsync`, which all callers of the moment share.

        iex> log = start_log()
        iex> :ok = Foundation.Jido.Storage.put_checkpoint({MyAgent, "1"}, %{state: 1}, log: log)
        iex> Foundation.Jido.Storage.get_checkpoint({MyAgent, "1"}, log: log)
        {:ok, %{state: 1}}
    """
    @doc since: "0.1.0"
    @impl true
    @spec put_checkpoint(term, term, keyword) :: :ok | {:error, term}
    def put_checkpoint(key, data, options) do
      EventLog.put_snapshot(log!(options), checkpoint(key), 0, data)
    end

    @doc """
    Deletes a checkpoint. `:ok`, also where there is none.

    **Cost:** one `fsync`.

        iex> Foundation.Jido.Storage.delete_checkpoint({MyAgent, "1"}, log: start_log())
        :ok
    """
    @doc since: "0.1.0"
    @impl true
    @spec delete_checkpoint(term, keyword) :: :ok | {:error, term}
    def delete_checkpoint(key, options) do
      EventLog.delete_stream(log!(options), checkpoint(key))
    end

    @doc """
    Returns a thread with all its entries, or `:not_found` for one without entries.

    **Cost:** O(entries), which are read. `{:error, :invalid_thread_id}` for an id that is no
    string.

        iex> Foundation.Jido.Storage.load_thread("support-7", log: start_log())
        :not_found
    """
    @doc since: "0.1.0"
    @impl true
    @spec load_thread(String.t(), keyword) :: {:ok, Thread.t()} | :not_found | {:error, term}
    def load_thread(id, options) do
      with {:ok, stream} <- stream(id) do
        reading(fn ->
          case stored(log!(options), stream) do
            {_version, []} -> :not_found
            {_version, events} -> {:ok, thread(id, events)}
          end
        end)
      end
    end

    @doc """
    Appends entries to a thread and returns it, with all its entries.

    Entries are `%Jido.Thread.Entry{}` or maps. Missing fields get Jido's defaults: `:id`, `:at`,
    `:kind` (`:note`), `:payload` and `:refs`. `:seq` is the place in the thread.

      * `:expected_rev` - the number of entries that the thread must have. `{:error, :conflict}` if
        it has another.
      * `:metadata` - the metadata of a new thread. A thread that exists keeps its own.

    **Cost:** one `fsync`, which all callers of the moment share, and a read of the entries that the
    returned thread has. An append that loses a race on the version reads what is new and tries
    again. `{:error, :invalid_thread_id}` for an id that is no string.

        iex> log = start_log()
        iex> entry = %{kind: :message, payload: %{text: "Hello"}}
        iex> {:ok, thread} = Foundation.Jido.Storage.append_thread("support-7", [entry], log: log)
        iex> {thread.rev, hd(thread.entries).seq}
        {1, 0}
        iex> Foundation.Jido.Storage.append_thread("support-7", [entry], log: log, expected_rev: 0)
        {:error, :conflict}
    """
    @doc since: "0.1.0"
    @impl true
    @spec append_thread(String.t(), [Entry.t() | map], keyword) ::
            {:ok, Thread.t()} | {:error, term}
    def append_thread(id, entries, options) when is_list(entries) do
      log = log!(options)

      with {:ok, stream} <- stream(id) do
        reading(fn -> append(log, stream, id, entries, options, stored(log, stream)) end)
      end
    end

    defp append(log, stream, id, entries, options, {version, stored}) do
      rev = length(stored)
      now = System.system_time(:millisecond)

      if options[:expected_rev] in [nil, rev] do
        new = events(entries, rev, now, options)

        case EventLog.append(log, stream, new, expected: version) do
          {:ok, _version} ->
            {:ok, thread(id, stored ++ Enum.map(new, &appended/1), now, options)}

          {:error, {:wrong_version, _actual}} ->
            now_stored = newer(log, stream, version, stored)
            append(log, stream, id, entries, options, now_stored)

          {:error, _reason} = error ->
            error
        end
      else
        {:error, :conflict}
      end
    end

    @doc """
    Deletes a thread with all its entries. `:ok`, also where there is none.

    **Cost:** two `fsync`s, and O(entries) without I/O.

        iex> log = start_log()
        iex> {:ok, _thread} = Foundation.Jido.Storage.append_thread("support-7", [%{}], log: log)
        iex> Foundation.Jido.Storage.delete_thread("support-7", log: log)
        :ok
        iex> Foundation.Jido.Storage.load_thread("support-7", log: log)
        :not_found
    """
    @doc since: "0.1.0"
    @impl true
    @spec delete_thread(String.t(), keyword) :: :ok | {:error, term}
    def delete_thread(id, options) do
      log = log!(options)

      with {:ok, stream} <- stream(id),
           [_event] <- reading(fn -> EventLog.read(log, stream, limit: 1) end),
           # The version must change: an append that has read the thread must not go on from it.
           {:ok, version} <- EventLog.append(log, stream, [@deleted]) do
        remove(log, stream, version)
      else
        [] -> :ok
        {:error, _reason} = error -> error
      end
    end

    # A new thread may have begun behind the mark. Then only what is before it goes.
    defp remove(log, stream, version) do
      with {:error, {:wrong_version, _actual}} <-
             EventLog.delete_stream(log, stream, expected: version),
           do: EventLog.trim(log, stream, before: version)
    end

    # The version of a stream, and the thread's events in it. The version is read first: if events
    # come in between, the read has them too, and the last one has the version.
    defp stored(log, stream), do: newer(log, stream, EventLog.version(log, stream), [], 1)

    # The same, from what was there at a version.
    defp newer(log, stream, version, stored) do
      newer(log, stream, EventLog.version(log, stream), stored, version + 1)
    end

    defp newer(log, stream, version, stored, from) do
      new = EventLog.read(log, stream, from: from, limit: @all)
      new_version = if new == [], do: version, else: List.last(new).version

      cond do
        # Another thread, or events behind a gap: a deletion came in between.
        Enum.any?(new, &deleted?/1) -> {new_version, alive(new)}
        new_version - from + 1 != length(new) and from > 1 -> stored(log, stream)
        true -> {new_version, stored ++ new}
      end
    end

    # The events behind the last deletion.
    defp alive(events) do
      events |> Enum.reverse() |> Enum.take_while(&(not deleted?(&1))) |> Enum.reverse()
    end

    defp deleted?(%{type: :thread_deleted, metadata: %{deleted: true}}), do: true
    defp deleted?(_event), do: false

    defp events([], _rev, _now, _options), do: []

    defp events(entries, 0, now, options) do
      [{type, data, metadata} | rest] = Enum.map(entries, &event(&1, now))
      [{type, data, Map.put(metadata, :thread, options[:metadata] || %{})} | rest]
    end

    defp events(entries, _rev, now, _options), do: Enum.map(entries, &event(&1, now))

    # Decoding an atom takes as long as decoding much else, so there are few.
    defp event(%{} = entry, now) do
      id = value(entry, :id) || "entry_" <> RequestContext.new_request_id()
      metadata = %{jido: {id, value(entry, :at) || now, value(entry, :refs) || %{}, now}}
      payload = value(entry, :payload) || %{}

      case value(entry, :kind) || :note do
        kind when is_atom(kind) or is_binary(kind) -> {kind, payload, metadata}
        kind -> {:entry, payload, Map.put(metadata, :kind, kind)}
      end
    end

    defp value(entry, key), do: Map.get(entry, key) || Map.get(entry, Atom.to_string(key))

    defp appended({type, data, metadata}), do: %{type: type, data: data, metadata: metadata}

    # Without entries nothing was stored, and the thread is as new.
    defp thread(id, [], now, options) do
      new(id, [], now, now, options[:metadata] || %{})
    end

    defp thread(id, events, _now, _options), do: thread(id, events)

    defp thread(id, [first | _] = events) do
      entries = entries(events, 0)
      new(id, entries, at(first), at(List.last(events)), first.metadata.thread)
    end

    defp entries([], _seq), do: []

    defp entries([%{type: type, data: payload, metadata: metadata} | events], seq) do
      {id, at, refs, _appended_at} = metadata.jido
      kind = Map.get(metadata, :kind, type)
      entry = %Entry{id: id, seq: seq, at: at, kind: kind, payload: payload, refs: refs}
      [entry | entries(events, seq + 1)]
    end

    defp at(event), do: elem(event.metadata.jido, 3)

    defp new(id, entries, created_at, updated_at, metadata) do
      rev = length(entries)

      %Thread{
        id: id,
        rev: rev,
        entries: entries,
        created_at: created_at,
        updated_at: updated_at,
        metadata: metadata,
        stats: %{entry_count: rev}
      }
    end

    defp stream(id) when is_binary(id) do
      stream = "jido/thread/" <> id
      {:ok, if(byte_size(stream) > @stream_max, do: "jido/thread#" <> hash(id), else: stream)}
    end

    defp stream(_id), do: {:error, :invalid_thread_id}

    # The options make the binary of a key the same on every release of Erlang, and for a large
    # map in every process.
    defp checkpoint(key) do
      "jido/checkpoint#" <> hash(:erlang.term_to_binary(key, [:deterministic, minor_version: 2]))
    end

    # Jido starts :crypto. Foundation does not depend on it, and a direct call would say so.
    defp hash(binary),
      do: Base.url_encode64(apply(:crypto, :hash, [:sha256, binary]), padding: false)

    defp log!(options) do
      case Keyword.fetch(options, :log) do
        {:ok, log} ->
          log

        :error ->
          raise ArgumentError,
                "expected the options of Foundation.Jido.Storage to have :log, the name of an " <>
                  "event log, got: #{inspect(options)}"
      end
    end

    defp reading(fun) do
      fun.()
    rescue
      error in EventLog.ReadError -> {:error, error.reason}
    end
  end
else
  defmodule Foundation.Jido.Storage do
    @external_resource Path.join(__DIR__, "storage.md")
    @moduledoc File.read!(Path.join(__DIR__, "storage.md"))

    require Foundation.Optional

    Foundation.Optional.stubs(
      [
        get_checkpoint: 2,
        put_checkpoint: 3,
        delete_checkpoint: 2,
        load_thread: 2,
        append_thread: 3,
        delete_thread: 2
      ],
      "jido",
      "~> 2.0"
    )
  end
end
