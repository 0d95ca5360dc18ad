defmodule Foundation.Audit.Calls do
  @moduledoc false
  # The calls that use the process dictionary, and the advice for each.
  #
  # The audit names modules and functions by strings ("Elixir.Process", "put"). Atoms created from
  # source code could let a large tree fill the atom table.

  @dictionary %{
    "Elixir.Process" => ~w(put get delete get_keys erase),
    "erlang" => ~w(put get erase get_keys)
  }

  # The calls above that `import` can bring into scope, and the calls that only pass on a call.
  @exports %{
    "Elixir.Process" => [
      {"put", 2},
      {"get", 0},
      {"get", 1},
      {"get", 2},
      {"delete", 1},
      {"get_keys", 0},
      {"get_keys", 1}
    ],
    "erlang" => [
      {"put", 2},
      {"get", 0},
      {"get", 1},
      {"erase", 0},
      {"erase", 1},
      {"get_keys", 0},
      {"get_keys", 1},
      {"apply", 2},
      {"apply", 3},
      {"make_fun", 3}
    ],
    "Elixir.Kernel" => [
      {"apply", 2},
      {"apply", 3},
      {"spawn", 3},
      {"spawn_link", 3},
      {"spawn_monitor", 3}
    ],
    "Elixir.Function" => [{"capture", 3}]
  }

  @applies [{"Elixir.Kernel", "apply"}, {"erlang", "apply"}]
  @captures [{"Elixir.Function", "capture"}, {"erlang", "make_fun"}]

  # Functions that apply a module, a function and arguments, which stand beside each other somewhere
  # among their own arguments.
  @appliers %{
    "Elixir.Kernel" => ~w(spawn spawn_link spawn_monitor),
    "Elixir.Node" => ~w(spawn spawn_link spawn_monitor),
    "Elixir.Process" => ~w(spawn),
    "Elixir.Task" => ~w(async async_stream start start_link),
    "Elixir.Task.Supervisor" =>
      ~w(async async_nolink async_stream async_stream_nolink start_child),
    "Elixir.Agent" => ~w(cast get get_and_update start start_link update),
    "erlang" => ~w(hibernate spawn spawn_link spawn_monitor spawn_opt spawn_request),
    "proc_lib" => ~w(hibernate spawn spawn_link spawn_monitor spawn_opt start start_link
                     start_monitor),
    "rpc" => ~w(async_call block_call call cast multicall pmap parallel_eval),
    "erpc" => ~w(call cast multicall multicast send_request),
    "timer" => ~w(apply_after apply_interval apply_once apply_repeatedly tc)
  }

  @doc "Whether that function applies a module, a function and arguments among its arguments."
  @spec applies?(String.t() | nil, term) :: boolean
  def applies?(module, function), do: function in Map.get(@appliers, module, [])

  @doc "Whether a function of that module, in any arity, works on the process dictionary."
  @spec dictionary?(String.t() | nil, term) :: boolean
  def dictionary?(module, function), do: function in Map.get(@dictionary, module, [])

  @doc "Whether `module` exports a function that matters here, so that an import brings it in."
  @spec exports?(String.t(), String.t(), arity) :: boolean
  def exports?(module, function, arity), do: {function, arity} in Map.get(@exports, module, [])

  @doc "`:apply` or `:capture` for a function that names another one by its first arguments."
  @spec indirect(String.t() | nil, term) :: :apply | :capture | nil
  def indirect(module, function) do
    cond do
      {module, function} in @applies -> :apply
      {module, function} in @captures -> :capture
      true -> nil
    end
  end

  @doc "The call as a person writes it: `Process.put/2`; without the arity where it is not known."
  @spec format(String.t(), String.t(), arity | nil) :: String.t()
  def format(module, function, nil), do: "#{display(module)}.#{function}"
  def format(module, function, arity), do: "#{display(module)}.#{function}/#{arity}"

  defp display("Elixir." <> name), do: name
  defp display(erlang), do: ":" <> erlang

  @doc "What to use in place of the call."
  @spec suggestion(String.t()) :: String.t()
  def suggestion("put") do
    "keep shared state in Foundation.ConcurrentRegistry or Foundation.StateManager, " <>
      "request context in Foundation.ErrorContext, an agent's pid in Foundation.AgentRegistry"
  end

  def suggestion("get") do
    "read it where it is kept: Foundation.ConcurrentRegistry.get/2, " <>
      "Foundation.ErrorContext.get_context/0, Foundation.AgentRegistry.get_agent/1"
  end

  def suggestion(name) when name in ["delete", "erase"] do
    "remove it where it is kept: Foundation.ConcurrentRegistry.delete/2, " <>
      "Foundation.ErrorContext.clear_context/0, Foundation.AgentRegistry.unregister_agent/1"
  end

  def suggestion("get_keys") do
    "walk the table that holds the state: Foundation.ConcurrentRegistry.stream/1, " <>
      "Foundation.Registry.stream/1"
  end
end
