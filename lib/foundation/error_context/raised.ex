defmodule Foundation.ErrorContext.Raised do
  @moduledoc false
  # The context at the point of a raise that has left a `with_context/2`. By the time an outer
  # function rescues the exception, or the process crashes and reports that, the metadata has been
  # restored. Both find the earlier context here.
  #
  # There is one row per process, for its latest raise, in a table that any process writes to.
  # Without a raise nothing is stored. This process owns the table, and removes the rows of dead
  # processes. If it is killed, the rows are lost, and a caller gets its current context instead.
  use GenServer

  alias Foundation.ErrorContext
  alias Foundation.ErrorContext.{CrashReports, Store}

  # The fields of a row: {pid, raise, reason, exception, depth, restored, context, metadata}, where
  #   raise      a hash of reason and stacktrace: this raise and no other
  #   reason     a hash of the reason as the VM has it
  #   exception  a hash of it as `rescue` or `catch` gives it
  #   depth      of the outermost `with_context/2` that it has left
  #   restored   a hash of the context that was put back there
  # Hashes, because an exception may hold anything, and would be kept as long as its process.
  @table __MODULE__
  @hashes 4_294_967_296

  # The VM reports a process that was spawned without proc_lib in another process, some time after
  # its death. The row stays for this long.
  @report_ms 200

  def start_link(_options), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc """
  Stores the context and metadata of the level `depth`, which a raise has just left.
  """
  @spec keep(atom, term, list, non_neg_integer, {ErrorContext.t() | nil, map | :undefined}) :: :ok
  def keep(kind, reason, stacktrace, depth, {context, metadata}) do
    caught = if kind == :error, do: Exception.normalize(:error, reason, stacktrace), else: reason
    # The VM reports an uncaught throw in this form.
    reason = if kind == :throw, do: {:nocatch, reason}, else: reason
    raise_hash = hash({reason, own(stacktrace)})
    restored = hash(Store.get())

    case :ets.lookup(@table, self()) do
      # The same raise, from the level below: its row already has the context at the point of the
      # raise.
      [{_pid, ^raise_hash, _reason, _exception, below, _restored, _context, _metadata}]
      when below == depth + 1 ->
        :ets.update_element(@table, self(), [{5, depth}, {6, restored}])

      rows ->
        row = {self(), raise_hash, hash(reason), hash(caught), depth, restored, context, metadata}

        :ets.insert(@table, row)
        if rows == [], do: GenServer.cast(__MODULE__, {:watch, self()})
    end

    :ok
  rescue
    # There is no table: the application is not running, or the table's owner restarts. The
    # exception continues all the same.
    ArgumentError -> :ok
  end

  @doc """
  Returns the context in which `error` was raised, thrown or exited with. If it has not left a
  `with_context/2` of this process since the context `current` was entered or set, returns
  `current`.

  For an `{:error, reason}` either the tuple or `reason` may have been raised.
  """
  @spec context_of(term, ErrorContext.t() | nil) :: ErrorContext.t() | nil
  def context_of(error, current) do
    {whole, inner} = hashes(error)

    case row(self()) do
      {_pid, _raise, reason, exception, _depth, restored, context, _metadata}
      when whole in [exception, reason] or inner in [exception, reason] ->
        # The current context is not the one that was restored, so something new has begun. An equal
        # exception may belong to that.
        if restored == hash(current), do: context, else: current

      _other ->
        current
    end
  end

  @doc """
  Returns the metadata of the process `pid` at the point of the raise that it crashes from, or
  `nil`.
  """
  @spec metadata_of(pid, {term, list} | term) :: map | nil
  def metadata_of(pid, crash) do
    case row(pid) do
      {_pid, raise_hash, reason, _exception, _depth, _restored, _context, metadata}
      when is_map(metadata) ->
        if hash(crash) == reason or hash(with_own(crash)) == raise_hash, do: metadata

      _none ->
        nil
    end
  end

  defp row(pid) do
    case :ets.lookup(@table, pid) do
      [row] -> row
      [] -> nil
    end
  rescue
    # As in `keep/5`.
    ArgumentError -> nil
  end

  defp hashes({:error, reason} = error), do: {hash(error), hash(reason)}
  defp hashes(error), do: {hash(error), nil}

  defp hash(term), do: :erlang.phash2(term, @hashes)

  # An exception that leaves evaluated code (iex, Livebook) gets other frames of the evaluator at
  # each function, and may lose as many at the end. Of such a stacktrace, only the compiled frames
  # within the evaluated code identify the raise.
  @evaluators [:elixir, :elixir_compiler, :elixir_eval, :erl_eval]

  defp own(stacktrace) do
    case stacktrace |> Enum.reverse() |> Enum.drop_while(&(not evaluator?(&1))) do
      [] -> stacktrace
      within -> Enum.reject(within, &evaluator?/1)
    end
  end

  defp evaluator?({module, _function, _arity, _location}), do: module in @evaluators
  defp evaluator?(_other), do: false

  # An exit reason may look like this tuple, with any list in it.
  defp with_own({reason, stacktrace}) when length(stacktrace) > 0, do: {reason, own(stacktrace)}
  defp with_own(reason), do: reason

  @impl true
  def init([]) do
    Process.flag(:trap_exit, true)
    :ets.new(@table, [:named_table, :public, write_concurrency: true])
    CrashReports.attach()
    {:ok, []}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:watch, pid}, state) do
    # If the process is dead already, the message about its death arrives at once.
    Process.monitor(pid)
    {:noreply, state}
  end

  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    # `:noproc`: the process died before it was monitored, perhaps from its raise.
    if reason in [:normal, :shutdown],
      do: :ets.delete(@table, pid),
      else: Process.send_after(self(), {:remove, pid}, @report_ms)

    {:noreply, state}
  end

  def handle_info({:remove, pid}, state) do
    :ets.delete(@table, pid)
    {:noreply, state}
  end

  def handle_info(_unknown, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, _state), do: CrashReports.detach()
end
