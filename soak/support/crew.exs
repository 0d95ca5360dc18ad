defmodule Soak.Crew do
  @moduledoc false
  # The processes that work. Each repeats its area's step. A fault or another member may kill a
  # mortal member at any moment, and it is replaced.

  use GenServer

  alias Soak.{Pause, Record}

  @table __MODULE__
  @idle_every 20

  def start_link(areas, seed),
    do: GenServer.start_link(__MODULE__, {areas, seed}, name: __MODULE__)

  @doc "All members that are alive now."
  def members, do: for([pid] <- :ets.match(@table, {:"$1", :_, :_}), Process.alive?(pid), do: pid)

  @doc "A mortal member of an area, chosen by `:rand`, or nil."
  def victim(area) do
    case :ets.match(@table, {:"$1", area, true}) do
      [] -> nil
      pids -> pids |> Enum.random() |> hd()
    end
  end

  @impl true
  def init({areas, seed}) do
    @table = :ets.new(@table, [:named_table, read_concurrency: true])

    members =
      for area <- areas,
          {member, kind} <- Enum.with_index(area.crew()),
          index <- 1..member.count do
        {area, member, index, {seed, kind, index}}
      end

    {:ok, Enum.reduce(members, %{hired: %{}, count: 0}, &hire/2)}
  end

  @impl true
  def handle_info({:DOWN, ref, :process, pid, reason}, state) do
    :ets.delete(@table, pid)
    Pause.forget(pid)
    {{_area, member, _index, _seed} = post, hired} = Map.pop!(state.hired, ref)
    if reason != :failed and not mortal?(member), do: Record.fail(:crew, {:died, post, reason})
    {:noreply, hire(post, %{state | hired: hired})}
  end

  defp hire({area, member, index, seed} = post, %{hired: hired, count: count}) do
    {pid, ref} =
      spawn_monitor(fn ->
        :rand.seed(:exsss, {:erlang.phash2(area), :erlang.phash2(seed), count})
        work(area, member, member.init.(index))
      end)

    :ets.insert(@table, {pid, area, mortal?(member)})
    %{hired: Map.put(hired, ref, post), count: count + 1}
  end

  defp mortal?(member), do: Map.get(member, :mortal?, false)

  defp work(area, member, state) do
    Pause.point()

    case Record.guard(fn -> member.step.(state) end) do
      {:ok, {operations, state}} ->
        Record.operations(area.name(), operations)
        # Members rest now and then, because there are more of them than processors.
        if :rand.uniform(@idle_every) == 1, do: Process.sleep(1)
        work(area, member, state)

      # This member's knowledge is wrong. Another one begins anew.
      :failed ->
        exit(:failed)
    end
  end
end
