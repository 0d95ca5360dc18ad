defmodule Foundation.StrayMessagesTest do
  # Not async: sends messages to every process of the application.
  use Foundation.Case, async: false

  alias Foundation.Registry

  # Supervisors log unknown messages.
  @moduletag :capture_log

  defp terms do
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

  # Each process, with the ids on the path from the top supervisor to it.
  defp processes(supervisor \\ Foundation.Supervisor, above \\ []) do
    Enum.flat_map(Supervisor.which_children(supervisor), fn
      {id, pid, :supervisor, _modules} -> [{[id | above], pid} | processes(pid, [id | above])]
      {id, pid, :worker, _modules} -> [{[id | above], pid}]
    end)
  end

  # OTP's supervisors exit at an unknown call or cast.
  defp servers, do: for({_id, pid} = process <- processes(), not supervisor?(pid), do: process)
  defp supervisor?(pid), do: match?({:supervisor, _, _}, :proc_lib.translate_initial_call(pid))

  defp assert_unharmed({id, pid}, term) do
    :sys.get_state(pid)
  catch
    :exit, reason -> flunk("#{inspect(id)} ended of #{inspect(term)}: #{inspect(reason)}")
  end

  test "every process of the application ignores messages that it does not know" do
    for process <- processes(), term <- terms() do
      send(elem(process, 1), term)
      assert_unharmed(process, term)
    end
  end

  test "every server of the application ignores casts that it does not know" do
    for process <- servers(), term <- terms() do
      GenServer.cast(elem(process, 1), term)
      assert_unharmed(process, term)
    end
  end

  defp catch_call(pid, term) do
    GenServer.call(pid, term)
  catch
    :exit, reason -> {:exit, reason}
  end

  test "every server of the application answers calls that it does not know" do
    for {id, pid} = process <- servers(), term <- [:stray, {:stray, self()}, %{}, "text", nil] do
      assert {id, catch_call(pid, term)} == {id, {:error, :unknown_call}}
      assert_unharmed(process, term)
    end
  end

  for engine <- [:native, :ets], keys <- [:unique, :duplicate] do
    test "a #{keys} registry of the #{engine} engine takes any message and keeps its entries" do
      name = unique_name("stray")
      start_supervised!({Registry, keys: unquote(keys), name: name, engine: unquote(engine)})
      {:ok, owner} = Registry.register(name, :key, 1)

      for term <- terms() do
        send(owner, term)
        GenServer.cast(owner, term)
        assert_unharmed({name, owner}, term)
      end

      assert GenServer.call(name, :stray) == {:error, :unknown_call}
      assert Registry.lookup(name, :key) == [{self(), 1}]
      assert Process.whereis(name) == owner
    end
  end
end
