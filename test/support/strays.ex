defmodule Foundation.Strays do
  @moduledoc """
  Messages that no process of the application expects, and the processes to send them to.
  """

  @doc "Terms that resemble a message of some process, and others that resemble none."
  @spec terms() :: [term]
  def terms do
    [
      :stray,
      {:stray, self()},
      {make_ref(), :late_reply},
      %{},
      [],
      "text",
      1.5,
      nil,
      {:DOWN, make_ref(), :process, self(), :normal},
      {:DOWN, make_ref(), :port, nil, :normal},
      {:"ETS-TRANSFER", make_ref(), self(), "name"},
      {:timeout, make_ref(), :stray},
      {:nodedown, :nobody@nowhere},
      {:expire, %{}},
      {:forget, :stray},
      {:remove, :stray},
      {:release, :stray},
      {:watch, :stray},
      {:watch_all, :stray},
      {{:down, :stray}, make_ref(), :process, self(), :normal},
      {{:down, "name", nil}, make_ref(), :process, self(), :normal},
      {:EXIT, self(), :normal},
      {:EXIT, nil, :normal}
    ]
  end

  @doc "The processes below a supervisor that are up, each with the ids that lead to it."
  @spec processes(Supervisor.supervisor()) :: [{ids :: [term], pid}]
  def processes(supervisor), do: processes(supervisor, [])

  defp processes(supervisor, above) do
    Enum.flat_map(Supervisor.which_children(supervisor), fn
      {id, pid, :supervisor, _modules} when is_pid(pid) ->
        [{[id | above], pid} | processes(pid, [id | above])]

      {id, pid, :worker, _modules} when is_pid(pid) ->
        [{[id | above], pid}]

      _down ->
        []
    end)
  end

  @doc "Whether a process is a supervisor of OTP. Those end at a call or a cast they do not know."
  @spec supervisor?(pid) :: boolean
  def supervisor?(pid), do: match?({:supervisor, _, _}, :proc_lib.translate_initial_call(pid))
end
