defmodule Foundation.ErrorContext.CrashReportTest do
  # Not async: Logger is global.
  use Foundation.Case, async: false

  alias Foundation.ErrorContext

  @moduletag :capture_log

  defmodule Handler do
    def log(%{level: :error} = event, %{config: %{test: test}}), do: send(test, {:report, event})
    def log(_event, _config), do: :ok
  end

  defmodule Server do
    use GenServer
    def init(context), do: {:ok, ErrorContext.set_context(context)}

    def handle_call(fun, _from, state), do: {:reply, fun.(), state}
    def handle_cast(fun, state), do: {:noreply, fun.(), state}
  end

  defmodule Machine do
    @behaviour :gen_statem
    def callback_mode, do: :handle_event_function
    def init([]), do: {:ok, :state, nil}
    def handle_event(:cast, fun, _state, _data), do: {:keep_state, fun.()}
  end

  setup do
    :ok = Foundation.FeatureFlags.boot()
    :ok = :logger.add_handler(:crash_test, Handler, %{config: %{test: self()}})
    on_exit(fn -> :logger.remove_handler(:crash_test) end)
  end

  # The first report about `pid`, from any process.
  defp report(pid) do
    assert_receive {:report, %{meta: %{pid: ^pid} = meta}}
    meta
  end

  @raises [
    error: quote(do: raise("boom")),
    badarith: quote(do: :erlang.error(:badarith)),
    exit: quote(do: exit(:boom)),
    throw: quote(do: throw(:boom))
  ]

  for {kind, code} <- @raises do
    test "crash report of a Task that crashes by #{kind} has its context" do
      crash = fn -> unquote(code) end

      for {fun, context} <- [
            {fn ->
               ErrorContext.set_context(%{request_id: 1})
               crash.()
             end, %{request_id: 1}},
            {fn -> ErrorContext.with_context(%{request_id: 2}, crash) end, %{request_id: 2}},
            {fn ->
               ErrorContext.set_context(%{request_id: 3})

               ErrorContext.with_context(%{a: 1}, fn ->
                 ErrorContext.with_context(%{b: 2}, crash)
               end)
             end, %{request_id: 3, a: 1, b: 2}}
          ] do
        {:ok, pid} = Task.start(fun)
        meta = report(pid)
        assert meta.error_context == context
        assert meta.request_id == context[:request_id]
        refute Map.has_key?(meta, :error_context_frame) and meta.error_context_frame != nil
      end
    end
  end

  for {kind, code} <- Keyword.delete(@raises, :throw) do
    test "crash report of a GenServer that crashes by #{kind} has its context" do
      {:ok, pid} = GenServer.start(Server, %{server: :mine})

      GenServer.cast(pid, fn ->
        ErrorContext.with_context(%{request_id: 1}, fn -> unquote(code) end)
      end)

      meta = report(pid)
      assert meta.error_context == %{server: :mine, request_id: 1}
      assert meta.server == :mine
      assert meta.request_id == 1
    end

    test "crash report of a gen_statem that crashes by #{kind} has its context" do
      {:ok, pid} = :gen_statem.start(Machine, [], [])

      :gen_statem.cast(pid, fn ->
        ErrorContext.with_context(%{request_id: 1}, fn -> unquote(code) end)
      end)

      assert report(pid).request_id == 1
    end
  end

  test "crash report of a spawned process has its context" do
    ErrorContext.set_context(%{request_id: 1})
    crash = fn -> raise "boom" end

    for {start, context} <- [
          {&spawn/1, %{a: 1}},
          {&ErrorContext.spawn_with_context/1, %{request_id: 1, a: 1}}
        ] do
      pid = start.(fn -> ErrorContext.with_context(%{a: 1}, crash) end)
      assert report(pid).error_context == context
    end

    pid = ErrorContext.spawn_with_context(crash)
    assert report(pid).error_context == %{request_id: 1}
  end

  test "crash report of a task of async has its context" do
    Process.flag(:trap_exit, true)
    ErrorContext.set_context(%{request_id: 1})
    task = ErrorContext.async(fn -> raise "boom" end)
    assert report(task.pid).request_id == 1
  end

  test "crash report has no context of an earlier raise, which was rescued" do
    {:ok, pid} = GenServer.start(Server, %{server: :mine})

    GenServer.call(pid, fn ->
      catch_error(ErrorContext.with_context(%{request_id: 1}, fn -> raise "rescued" end))
    end)

    GenServer.cast(pid, fn -> raise "another" end)
    assert report(pid).error_context == %{server: :mine}
  end

  test "crash report filter leaves other events as they are" do
    catch_error(ErrorContext.with_context(%{request_id: 1}, fn -> raise "rescued" end))
    :logger.error(%{label: {:proc_lib, :crash}, report: :something_else})
    meta = report(self())
    refute Map.has_key?(meta, :request_id)
  end
end
