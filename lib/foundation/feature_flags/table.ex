defmodule Foundation.FeatureFlags.Table do
  @moduledoc false
  # The values of the flags, in one persistent term. A read looks up an atom and a key of a small
  # map. The term belongs to no process, so it survives the server that writes it. Each change
  # makes the VM scan all processes for the old term. That is acceptable because flags change a
  # few times in a system's life.

  alias Foundation.FeatureFlags
  alias Foundation.Legacy

  @defaults [
    use_ets_agent_registry: true,
    use_logger_error_context: true,
    use_genserver_telemetry: true,
    enforce_no_process_dict: false
  ]
  @flags Keyword.keys(@defaults)

  # What is held for a flag:
  #
  #   * its value as it was set
  #   * whether it is on for everybody
  #   * the mode of its area:
  #       :shared     on, and it was never off since the start: only the shared state exists
  #       :carrying   on, but it was off: a process may still hold legacy entries, which its
  #                   next call carries over
  #       :legacy     off: the process dictionary
  #       :refused    off, although no process dictionary is allowed
  @type mode :: :shared | :carrying | :legacy | :refused
  @type entry :: {FeatureFlags.value(), boolean, mode}
  @type t :: %{FeatureFlags.flag() => entry}

  @mode_keys for flag <- @flags, do: {flag, Module.concat(__MODULE__, flag)}

  @doc "The flags there are, in the order of the stages that turn them on."
  def flags, do: @flags

  @doc "The values of a new application."
  def defaults, do: @defaults

  @doc "Takes the defaults with `configured` over them, as if no flag had been set before."
  @spec reset(keyword) :: :ok | {:error, FeatureFlags.reason()}
  def reset(configured) do
    with :ok <- validate(configured) do
      write(merge(initial(), configured))
    end
  end

  @doc "Sets several flags at once: all of them, or none if one is wrong."
  @spec put(keyword) :: :ok | {:error, FeatureFlags.reason()}
  def put(changes) do
    with :ok <- validate(changes), do: write(merge(read(), changes))
  end

  @doc "Whether these are the values of the flags now."
  @spec put?(keyword) :: boolean
  def put?(changes) do
    entries = read()
    Enum.all?(changes, fn {flag, value} -> value(Map.fetch!(entries, flag)) === value end)
  end

  @doc "Takes back a change that a writer was killed in: what is written last is what holds."
  @spec restore() :: :ok
  def restore do
    settle()
    write(read())
  end

  @doc """
  Returns when no write of a killed writer is pending. The VM makes the new value of a persistent
  term visible after a delay. It suspends the writer for that time, but finishes the write even if
  the writer dies. Writes are serialized, so writing the current value waits for the pending
  write.
  """
  @spec settle() :: :ok
  def settle, do: :persistent_term.put(__MODULE__, :settled)

  @spec read() :: t
  def read, do: :persistent_term.get(FeatureFlags, initial())

  @doc "The mode of a flag. O(1)."
  @spec mode(FeatureFlags.flag()) :: mode
  def mode(flag), do: :persistent_term.get(mode_key(flag), :shared)

  @doc "Where the mode of a flag is, for who cannot spare a call; `:shared` where there is none."
  @spec mode_key(FeatureFlags.flag()) :: atom
  for {flag, key} <- @mode_keys do
    def mode_key(unquote(flag)), do: unquote(key)
  end

  @spec value(entry) :: FeatureFlags.value()
  def value({value, _enabled, _mode}), do: value

  @spec validate(term) :: :ok | {:error, FeatureFlags.reason()}
  def validate(changes) do
    # Not Keyword.keyword?/1, to which a flag that is no atom is no pair.
    if is_list(changes) and Enum.all?(changes, &match?({_flag, _value}, &1)) do
      Enum.find_value(changes, :ok, fn {flag, value} -> invalid(flag, value) end)
    else
      {:error, {:invalid_value, changes}}
    end
  end

  defp invalid(flag, _value) when flag not in @flags, do: {:error, {:unknown_flag, flag}}
  defp invalid(_flag, value) when is_boolean(value), do: nil
  defp invalid(_flag, value) when value in 0..100, do: nil
  defp invalid(_flag, value), do: {:error, {:invalid_value, value}}

  # Also what holds while the application is not started.
  defp initial do
    Map.new(@defaults, fn {flag, value} -> {flag, {value, value, :shared}} end)
  end

  defp merge(entries, changes) do
    values = Map.new(entries, fn {flag, entry} -> {flag, value(entry)} end)
    values = Map.merge(values, Map.new(changes))
    enforced = on?(values.enforce_no_process_dict)

    Map.new(values, fn {flag, value} ->
      {_value, _enabled, mode} = Map.fetch!(entries, flag)
      {flag, {value, on?(value), mode(on?(value), enforced, mode)}}
    end)
  end

  defp mode(true, _enforced, :shared), do: :shared
  defp mode(true, _enforced, _was_off), do: :carrying
  defp mode(false, true, _mode), do: :refused
  defp mode(false, false, _mode), do: :legacy

  defp on?(value), do: value == true or value == 100

  # The VM does not write a term that is equal to the old one, so an unchanged value costs no
  # scan. Each mode has a term of its own: the hot paths of the areas read only that, at a third
  # of the cost. Modes are written first, so a process that sees a flag also sees its mode.
  # `restore/0` undoes a change that stopped in between.
  #
  # Native telemetry is switched on before the mode says so, and off after it. Whenever the mode
  # says that it answers, it does.
  defp write(entries) do
    {_value, _enabled, telemetry} = entries.use_genserver_telemetry
    if telemetry in [:shared, :carrying], do: Legacy.Telemetry.divert(telemetry)

    for {flag, key} <- @mode_keys do
      {_value, _enabled, mode} = Map.fetch!(entries, flag)
      :persistent_term.put(key, mode)
    end

    :persistent_term.put(FeatureFlags, entries)
    Legacy.Telemetry.divert(telemetry)
  end
end
