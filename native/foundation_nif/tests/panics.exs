# A panic in each NIF, under its locks, in the callbacks of the VM and in the background thread. The
# VM survives, the caller gets an exception, and the tables are unchanged. It needs a special build
# of the library: script/panics.

ExUnit.start(autorun: false, formatters: [ExUnit.CLIFormatter, Foundation.Test.Tally])

[library] = System.argv()
:ok = Foundation.Native.load(library, to_string(Application.spec(:foundation, :vsn)))
Application.put_env(:foundation, :engine, :native)
{:ok, _started} = Application.ensure_all_started(:foundation)

defmodule Foundation.PanicsTest do
  use Foundation.Case

  alias Foundation.{Cache, EventLog, Native, NativeArguments, Registry}
  alias Foundation.Telemetry.{SampledEvents, Span}

  @library hd(System.argv())
  @file_of_orders System.fetch_env!("FOUNDATION_FAULTS")
  # More than are removed in the exiting process.
  @many 3_000

  setup do
    name = unique_name("panics")
    start_supervised!({Registry, name: name, keys: :unique}, id: name)
    duplicate = unique_name("panics")
    start_supervised!({Registry, name: duplicate, keys: :duplicate}, id: duplicate)
    on_exit(&disarm/0)
    %{name: name, duplicate: duplicate}
  end

  test "the library is the one that panics on order" do
    arm("library_version")
    assert catch_error(Native.library_version()) == :nif_panicked
    assert is_binary(Native.library_version())
  end

  # The library reports a panic on standard error. The report itself must not fail: a panic during a
  # report aborts the VM.
  @tag :tmp_dir
  test "is survived where nobody reads standard error any more", %{tmp_dir: dir} do
    program = """
    :ok = Foundation.Native.load(#{inspect(@library)}, #{inspect(Native.library_version())})
    caught = try do Foundation.Native.live_counts() catch kind, reason -> {kind, reason} end
    IO.inspect(caught)
    """

    output = Path.join(dir, "output")
    # Standard error is a pipe whose reader has ended.
    script = ~s({ "$1" -pa "$2" -e "$3" 2>&1 >"$4"; echo "status $?" >>"$4"; } | true)
    elixir = System.find_executable("elixir")
    arguments = [elixir, Application.app_dir(:foundation, "ebin"), program, output]
    arm("live_counts")
    {_none, 0} = System.cmd("sh", ["-c", script, "sh" | arguments])
    assert File.read!(output) == "{:error, :nif_panicked}\nstatus 0\n"
  end

  for {function, types} <- NativeArguments.all() do
    test "in #{function} is an exception", %{name: name} = context do
      arguments = Enum.map(unquote(types), &NativeArguments.valid(&1, name))
      arm("#{unquote(function)}")
      assert catch_error(apply(Native, unquote(function), arguments)) == :nif_panicked
      assert fired?()
      assert_all_works(context)
    end
  end

  test "while an owner's handle is locked leaves the handle usable", context do
    for registry <- [context.name, context.duplicate] do
      worker = start_worker()
      arm("watch an owner")

      assert catch_error(run(worker, fn -> Registry.register(registry, 1, 1) end)) ==
               :nif_panicked

      assert fired?()
      assert {:ok, _owner} = run(worker, fn -> Registry.register(registry, 1, 1) end)
      assert Registry.lookup(registry, 1) == [{worker, 1}]
      assert Registry.count(registry) == 1
      kill(worker)
      eventually(fn -> Registry.count(registry) == 0 end)
    end

    assert_all_works(context)
  end

  @tag :tmp_dir
  @tag :capture_log
  test "in the commit thread of an event log closes the log, which is opened anew", context do
    log = unique_name("panics")
    child = {EventLog, name: log, dir: context.tmp_dir}
    start_supervised!(child, id: log)
    owner = Process.whereis(log)
    {:ok, _subscription} = EventLog.subscribe(log, :all, :panics)
    {:ok, 1} = EventLog.append(log, "s", [{:event, 1}])
    assert_receive {:events, _subscription, [_event]}
    # The server has to ask again before it can be woken.
    eventually(fn -> :sys.get_state(Native.event_log_server(log, "apanics")).cursor == 1 end)
    arm("wake a subscription")
    # It was written and not answered: nobody knows, and so it says nothing wrong.
    assert_raise ArgumentError, fn -> EventLog.append(log, "s", [{:event, 2}]) end
    assert fired?()
    eventually(fn -> Process.whereis(log) not in [nil, owner] end)
    # The next owner has its name before it has opened the log. It answers once it has.
    :sys.get_state(log)
    assert EventLog.version(log, "s") == 2
    assert {:ok, 3} = EventLog.append(log, "s", [{:event, 3}])
    assert_all_works(context)
  end

  test "while a segment is locked leaves the segment usable", %{name: name} = context do
    worker = start_worker()
    {:ok, _owner} = Registry.register(name, :key, 1)
    arm("ask whether an owner is alive")
    register = fn -> Registry.register(name, :key, 2) end
    assert catch_error(run(worker, register)) == :nif_panicked
    assert fired?()
    assert run(worker, register) == {:error, {:already_registered, self()}}
    :ok = Registry.unregister(name, :key)
    assert {:ok, _owner} = run(worker, register)
    assert_all_works(context)
  end

  test "while a term is being kept leaves no trace of it", context do
    # A function is kept as a term: it has no form of its own in the tables.
    function = fn -> context end
    cache = unique_name("panics")
    start_supervised!({Cache, name: cache, max_bytes: 100_000}, id: cache)

    attempts = [
      fn -> Cache.put(cache, %{key: 1}, 1) end,
      fn -> Cache.put(cache, :key, function) end,
      fn -> Native.cache_begin(cache, %{key: 1}, nil) end,
      fn -> Registry.register(context.name, %{key: 1}, 1) end,
      fn -> Registry.register(context.duplicate, %{key: 1}, 1) end,
      fn -> Registry.register(context.name, :key, function) end,
      fn -> Registry.put_meta(context.name, :key, function) end,
      fn -> SampledEvents.emit_batched([:panics, :kept], %{}, %{kept: function}) end,
      fn -> Span.start_span(:kept, %{kept: function}) end
    ]

    for attempt <- attempts do
      arm("keep a term")
      assert catch_error(attempt.()) == :nif_panicked
      assert fired?()
      assert_all_works(context)
    end

    assert {Cache.size(cache), Cache.stats(cache).bytes} == {0, 0}
    assert Registry.count(context.name) == 0
    assert Registry.count(context.duplicate) == 0
    assert Registry.meta(context.name, :key) == :error
    assert Span.current_span() == nil
    for attempt <- attempts, do: attempt.()
    assert Span.end_span() == :ok
  end

  test "while a process's spans are locked leaves them usable", context do
    worker = start_worker()
    arm("watch a process with spans")
    assert catch_error(run(worker, fn -> Span.start_span(:first) end)) == :nif_panicked
    assert fired?()
    run(worker, fn -> Span.start_span(:second) end)
    assert %{name: :second} = run(worker, fn -> Span.current_span() end)

    assert run(worker, fn -> {Span.end_span(), Span.end_span()} end) ==
             {:ok, {:error, :not_found}}

    assert_all_works(context)
  end

  test "when a registrant dies keeps its entries hidden and their keys free", context do
    for registry <- [context.name, context.duplicate] do
      worker = start_worker()
      {:ok, _owner} = run(worker, fn -> Registry.register(registry, :key, 1) end)
      arm("registrant down")
      kill(worker)
      eventually(&fired?/0)
      assert Registry.lookup(registry, :key) == []
      assert Registry.keys(registry, worker) == []
      assert {:ok, _owner} = Registry.register(registry, :key, 2)
      assert Registry.lookup(registry, :key) == [{self(), 2}]
      :ok = Registry.unregister(registry, :key)
    end

    assert_all_works(context)
  end

  test "when a loader dies leaves its key to be loaded once the load is overdue", context do
    cache = unique_name("panics")
    start_supervised!({Cache, name: cache, max_bytes: 100_000, load_timeout: 1}, id: cache)
    worker = start_worker()
    {:load, _lease} = run(worker, fn -> Native.cache_begin(cache, :key, nil) end)
    arm("holder down")
    kill(worker)
    eventually(&fired?/0)
    eventually(fn -> Cache.fetch(cache, :key, fn -> {:ok, 1} end) == {:ok, 1} end)
    loader = start_worker()
    {:load, _lease} = run(loader, fn -> Native.cache_begin(cache, :other, nil) end)
    kill(loader)
    assert Cache.fetch(cache, :other, fn -> {:ok, 2} end) == {:ok, 2}
    assert_all_works(context)
  end

  test "when an owner dies leaves its table to be adopted", %{name: name} = context do
    {:ok, _owner} = Registry.register(name, :key, 1)
    owner = Process.whereis(name)
    arm("owner down")
    kill(owner)
    eventually(&fired?/0)
    eventually(fn -> Process.whereis(name) not in [nil, owner] end)
    assert Registry.lookup(name, :key) == [{self(), 1}]
    :ok = Registry.unregister(name, :key)
    assert_all_works(context)
  end

  test "when the owner of a concurrent table dies leaves the others theirs", context do
    worker = start_worker()
    table = run(worker, &Native.concurrent_table_new/0)
    arm("table's owner down")
    kill(worker)
    eventually(&fired?/0)
    # It goes with the last term that refers to it.
    assert Native.concurrent_table_size(table) == 0
    assert_all_works(context)
  end

  test "when a process with spans dies leaves the others theirs", context do
    worker = start_worker()
    run(worker, fn -> Span.start_span(:left) end)
    arm("process with spans down")
    kill(worker)
    eventually(&fired?/0)
    assert_all_works(context)
  end

  test "in the background thread does not end it", %{name: name} = context do
    [first, second] = start_workers(2)
    register = &for(n <- 1..@many, do: {:ok, _owner} = Registry.register(name, {&1, n}, n))
    run(first, fn -> register.(1) end)
    run(second, fn -> register.(2) end)

    arm("clean up a death")
    kill(first)
    eventually(&fired?/0)
    assert Registry.lookup(name, {1, @many}) == []
    left = Registry.count(name) - @many
    assert left > 0
    kill(second)
    eventually(fn -> Registry.count(name) == left end)
    assert_all_works(context)
  end

  defp assert_all_works(%{name: name, duplicate: duplicate}) do
    for registry <- [name, duplicate] do
      worker = start_worker()

      for key <- [:works, %{works: true}] do
        {:ok, _owner} = run(worker, fn -> Registry.register(registry, key, [key]) end)
        assert Registry.lookup(registry, key) == [{worker, [key]}]
      end

      assert Enum.sort(Registry.keys(registry, worker)) == [:works, %{works: true}]
      before = Registry.count(registry)
      kill(worker)
      assert Registry.lookup(registry, :works) == []
      eventually(fn -> Registry.count(registry) == before - 2 end)
    end

    event = [:panics, unique_name("works")]
    :ok = SampledEvents.emit_event(event, %{}, %{})
    :ok = SampledEvents.emit_event(event, %{}, %{})
    assert %{emitted: 1, suppressed: 1, offered: 2} = SampledEvents.stats(event)
    :ok = SampledEvents.emit_batched(event, %{}, %{})
    :ok = SampledEvents.flush(event)
    assert %{emitted: 2, pending: 0} = SampledEvents.stats(event)

    id = Span.start_span(:works)
    assert %{span_id: ^id} = Span.current_span()
    assert Span.end_span(id) == :ok
  end

  # In one write, so that a reader sees either nothing or all of it.
  defp arm(point) do
    File.write!(@file_of_orders <> ".new", point)
    File.rename!(@file_of_orders <> ".new", @file_of_orders)
  end

  defp disarm, do: arm("")
  defp fired?, do: File.read!(@file_of_orders) == ""
end

%{failures: failures} = ExUnit.run()
if failures > 0, do: exit({:shutdown, 1})
