defmodule Foundation.ErrorContext.LoggingTest do
  # Not async: Logger and the flags are global.
  use Foundation.Case, async: false

  import ExUnit.CaptureLog

  alias Foundation.ErrorContext
  alias Foundation.Test.Absurd.{Secret, Sulky, Uninspectable}

  require Logger

  # Keeps log output that the tests themselves do not capture off the console.
  @moduletag :capture_log

  # A handler of Erlang's `:logger`. It sees events unformatted, as a JSON formatter does.
  defmodule Handler do
    def log(event, %{config: %{test: test}}), do: send(test, {:event, event})
  end

  # Expects a map under its own key, as Sentry's handler does. It fails on any other value, and
  # Logger then removes it for good.
  defmodule MapHandler do
    def log(%{meta: meta}, %{config: %{test: test}}) do
      send(test, {:tags, Map.get(meta.sentry, :tags)})
    end
  end

  setup do
    :ok = Foundation.FeatureFlags.boot()
  end

  defp console(fun),
    do: capture_log([metadata: [:request_id, :value], colors: [enabled: false]], fun)

  defp events(fun) do
    :ok = :logger.add_handler(:context_test, Handler, %{config: %{test: self()}})

    try do
      fun.()
    after
      :logger.remove_handler(:context_test)
    end
  end

  test "the console's default format prints the context" do
    log =
      console(fn ->
        ErrorContext.with_context(%{request_id: 123}, fn -> Logger.error("inside") end)
        Logger.error("outside")
      end)

    [inside] = Regex.run(~r/^.*inside$/m, log)
    assert inside =~ "request_id=123 "
    [outside] = Regex.run(~r/^.*outside$/m, log)
    refute outside =~ "request_id"
  end

  test "a handler of :logger sees each value under its own key as it is" do
    context = %{
      request_id: 123,
      map: %{"password" => "hidden", list: [1, {:a, "b"}]},
      list: [%{a: 1}, "b"],
      keyword: [a: 1],
      tuple: {:a, "b"},
      date: ~D[2020-01-01],
      struct: %Secret{user: "ada"},
      pid: self(),
      from: self(),
      reference: make_ref(),
      function: &String.length/1
    }

    events(fn ->
      ErrorContext.with_context(context, fn ->
        :logger.error(~c"by Erlang's logger")
        Logger.error("by Elixir's")
      end)
    end)

    for _two <- 1..2 do
      assert_receive {:event, event}
      assert event.meta.error_context === context
      beside = Map.drop(context, [:pid, :function])
      assert Map.take(event.meta, Map.keys(beside)) === beside
    end
  end

  test "a handler that expects a map under its own key gets it and stays attached" do
    :ok = :logger.add_handler(:context_map_test, MapHandler, %{config: %{test: self()}})

    try do
      ErrorContext.with_context(%{sentry: %{tags: %{t: 1}}}, fn -> Logger.error("tagged") end)
      assert_receive {:tags, %{t: 1}}
      assert :context_map_test in :logger.get_handler_ids()
    after
      :logger.remove_handler(:context_map_test)
    end
  end

  test "nested: :text converts values that the console omits to text" do
    nested(:text)

    for {value, text} <- [
          {%{a: 1}, "%{a: 1}"},
          {[a: 1], "[a: 1]"},
          {{1, 2}, "{1, 2}"},
          {~D[2020-01-01], "2020-01-01"},
          {MapSet.new([1]), inspect(MapSet.new([1]))}
        ] do
      ErrorContext.set_context(%{value: value})
      assert Logger.metadata()[:value] == text
    end

    assert console(fn ->
             ErrorContext.with_context(%{value: {:a, "b"}}, fn -> Logger.error("inside") end)
           end) =~ ~S(value={:a, "b"} )
  end

  test "a value over max_value_bytes is truncated text, and a smaller one is unchanged" do
    for {small, large} <- [
          {String.duplicate("a", 1_024), String.duplicate("a", 1_025)},
          {%{a: String.duplicate("a", 900)}, %{a: String.duplicate("a", 1_100)}},
          {Enum.to_list(1..100), Enum.to_list(1..1_000)},
          {%{l: %{l: %{l: [1, 2]}}}, Map.new(1..1_000, &{&1, &1})},
          {Bitwise.bsl(1, 3_000), Bitwise.bsl(1, 30_000)},
          {{1, 2}, Tuple.duplicate(1, 1_000)}
        ] do
      ErrorContext.set_context(%{value: small})
      assert Logger.metadata()[:value] === small
      ErrorContext.set_context(%{value: large})
      text = Logger.metadata()[:value]
      assert String.ends_with?(text, "…")
      assert byte_size(text) <= 1_024 + byte_size("…")
    end
  end

  test "text has no control character at any place" do
    for {value, text} <- [
          {"a\n[error] forged", "a\\n[error] forged"},
          {"\e[31mred", "\\e[31mred"},
          {"\r\n\t\0\d", "\\r\\n\\t\\0\\d"},
          {"ü\n", "ü\\n"},
          {<<0x85::utf8>>, "\\x85"},
          {<<0x2028::utf8>>, "\\u2028"},
          {~c"a\nb", inspect(~c"a\nb")},
          {[~c"a", [?\n]], inspect([~c"a", [?\n]])},
          {%Sulky{how: :lines}, "a\\nb"},
          {%Uninspectable{how: :lines}, "%Uninspectable{\\n}"}
        ] do
      if is_struct(value, Uninspectable), do: nested(:text)
      ErrorContext.set_context(%{value: value})
      assert Logger.metadata()[:value] == text
    end

    text = String.duplicate("\n", 1_000)
    ErrorContext.set_context(%{value: text})
    assert Logger.metadata()[:value] == String.duplicate("\\n", 512) <> "…"
  end

  test "a struct as the context breaks no console and is returned unchanged" do
    for how <- [:raise, :throw, :exit, :wrong, :long, :lines] do
      context = %Sulky{how: how}

      log =
        capture_log([metadata: :all], fn ->
          ErrorContext.set_context(context)
          assert ErrorContext.get_context() === context
          Logger.error("set")

          ErrorContext.with_context(%{request_id: 1}, fn ->
            assert ErrorContext.get_context() === Map.put(context, :request_id, 1)
            Logger.error("inside")
          end)

          assert ErrorContext.get_context() === context

          assert Task.await(Task.async(fn -> ErrorContext.get_context(callers: true) end)) ===
                   context

          ErrorContext.clear_context()
          assert Logger.metadata() == []
        end)

      assert log =~ "set" and log =~ "inside" and log =~ "how=#{how}"
      for line <- String.split(log, "\n"), do: assert(byte_size(line) < 20_000)
    end

    ErrorContext.set_context(%Sulky{how: :raise})
    assert :logger.get_process_metadata().error_context == %{how: :raise}
  end

  test "the internal metadata key holds a list, which no protocol prints" do
    ErrorContext.with_context(%{value: %{}}, fn ->
      assert is_list(:logger.get_process_metadata().error_context_frame)
    end)
  end

  absurd = [
    map: quote(do: %{{1, 2} => %{a: [%{}]}, "b" => nil}),
    empty: quote(do: ""),
    date: quote(do: ~D[2020-01-01]),
    range: quote(do: 1..2),
    exception: quote(do: %ArgumentError{message: "m"}),
    broken_struct: quote(do: %{__struct__: NoSuchModule, a: 1}),
    struct_that_is_none: quote(do: %{__struct__: "text"}),
    broken_known_struct: quote(do: %{__struct__: MapSet, map: :none}),
    pid: quote(do: self()),
    port: quote(do: hd(Port.list())),
    reference: quote(do: make_ref()),
    function: quote(do: fn -> 1 end),
    external: quote(do: &String.length/1),
    improper: quote(do: [1, 2 | 3]),
    charlist: quote(do: ~c"abc"),
    negative: quote(do: [-1, 0x110000]),
    keyword: quote(do: [a: 1, b: [c: 2]]),
    invalid: quote(do: <<"abc", 255, 254>>),
    cut_character: quote(do: binary_part("ä", 0, 1)),
    bits: quote(do: <<1::3>>),
    nul: quote(do: <<0, 1, 2>>),
    megabyte: quote(do: String.duplicate("m", 1_000_000)),
    invalid_megabyte: quote(do: :binary.copy(<<255>>, 1_000_000)),
    big: quote(do: Bitwise.bsl(1, 1_000_000)),
    big_inside: quote(do: %{a: [Bitwise.bsl(-1, 1_000_000)]}),
    float: quote(do: 1.0e300),
    true: quote(do: true),
    atom: quote(do: :"an atom with spaces and ü"),
    longest_atom: quote(do: String.to_atom(String.duplicate("ü", 255))),
    wide_tuple: quote(do: Tuple.duplicate(1, 1_000_000)),
    long_list: quote(do: Enum.to_list(1..1_000_000)),
    tree: quote(do: Enum.reduce(1..10, [], fn _, inner -> [inner, inner, inner] end)),
    deep: quote(do: Enum.reduce(1..100_000, [], &[&1, &2])),
    crumbs:
      quote(do: List.duplicate(%{module: A, function: :b, timestamp: 0, metadata: %{}}, 10_000)),
    sulky_raise: quote(do: %Sulky{how: :raise}),
    sulky_throw: quote(do: %Sulky{how: :throw}),
    sulky_exit: quote(do: %Sulky{how: :exit}),
    sulky_wrong: quote(do: %Sulky{how: :wrong}),
    sulky_long: quote(do: %Sulky{how: :long}),
    sulky_lines: quote(do: %Sulky{how: :lines}),
    improper_inside: quote(do: [1, [2 | 3]]),
    improper_in_a_map: quote(do: %{a: [2 | 3]}),
    forged: quote(do: "a\n[error] forged"),
    forged_charlist: quote(do: ~c"a\n[error] forged"),
    many_quotes: quote(do: %{a: String.duplicate(~s("), 1_000)}),
    uninspectable_raise: quote(do: %Uninspectable{how: :raise}),
    uninspectable_throw: quote(do: %Uninspectable{how: :throw}),
    uninspectable_exit: quote(do: [%Uninspectable{how: :exit}]),
    uninspectable_wrong: quote(do: {%Uninspectable{how: :wrong}})
  ]

  for {name, value} <- absurd do
    test "no formatter fails, and no line is long, with a value like #{name}" do
      value = unquote(value)

      set = [
        fn log -> ErrorContext.with_context(%{request_id: 123, value: value}, log) end,
        fn log ->
          ErrorContext.set_context(%{request_id: 123, value: value})
          log.()
          ErrorContext.clear_context()
        end,
        fn log ->
          context = ErrorContext.new(__MODULE__, :test, %{request_id: 123, value: value})
          ErrorContext.with_context(context, log)
        end
      ]

      for set <- set do
        log = capture_log([metadata: :all], fn -> set.(fn -> Logger.error("absurd") end) end)
        assert log =~ "request_id=123"
        assert log =~ "absurd"
        assert byte_size(log) < 20_000

        events(fn -> set.(fn -> Logger.error("absurd") end) end)
        assert_receive {:event, %{meta: meta} = event}
        assert_formats(event)

        context = meta.error_context
        assert value === if(is_struct(context), do: context.metadata.value, else: context.value)
      end
    end
  end

  test "no formatter fails with a key of any kind" do
    for key <- [nil, true, :"", :"a b", :"ü=", :__struct__x, "text", 1, {1}, <<255>>, %{}, self()] do
      log =
        capture_log([metadata: :all], fn ->
          ErrorContext.with_context(%{key => "v", request_id: 1}, fn -> Logger.error("absurd") end)
        end)

      assert log =~ "request_id=1"
      assert log =~ "absurd"
    end
  end

  test "10,000 breadcrumbs, 10,000 keys and 500 levels give a line of less than 20 kB" do
    crumbs =
      Enum.reduce(1..10_000, ErrorContext.new(__MODULE__, :test), fn n, context ->
        ErrorContext.add_breadcrumb(context, __MODULE__, :test, %{n: n})
      end)

    many = Map.new(1..10_000, &{:"logged_key_#{&1}", String.duplicate("v", 1_000)})

    log =
      capture_log([metadata: :all], fn ->
        ErrorContext.with_context(crumbs, fn ->
          Logger.error("crumbs")

          ErrorContext.with_context(many, fn ->
            Logger.error("many")
          end)
        end)

        level(500)
      end)

    for line <- String.split(log, "\n"), do: assert(byte_size(line) < 20_000)
    assert log =~ "crumbs" and log =~ "many" and log =~ "bottom"
  end

  test "fields that a struct hides from inspect stay hidden in text" do
    nested(:text)

    ErrorContext.set_context(%{
      value: %Secret{user: "ada", password: "hidden"},
      list: [%Secret{password: "hidden"}]
    })

    metadata = Logger.metadata()
    assert metadata[:value] =~ ~s(user: "ada")
    refute metadata[:value] =~ "hidden"
    refute metadata[:list] =~ "hidden"
  end

  test "Logger's own keys are never forged" do
    for key <-
          ~w(time pid gl mfa file line domain report_cb crash_reason initial_call registered_name
             application module function error_logger ansi_color logger_formatter)a do
      events(fn ->
        ErrorContext.with_context(%{key => :forged}, fn -> Logger.error("forged?") end)
      end)

      assert_receive {:event, event}
      assert event.meta[key] != :forged
      assert event.meta.error_context == %{key => :forged}
    end
  end

  defp level(0), do: Logger.error("bottom")

  defp level(n) do
    ErrorContext.with_context(%{:"logged_level_#{n}" => String.duplicate("l", 200)}, fn ->
      level(n - 1)
    end)
  end

  defp nested(how) do
    Application.put_env(:foundation, :error_context, nested: how)
    on_exit(fn -> Application.delete_env(:foundation, :error_context) end)
  end

  # Formats the event with every formatter of Logger and OTP, with all metadata.
  defp assert_formats(event) do
    keys = Map.keys(event.meta) -- [:error_context]
    template = Enum.flat_map(keys, &[Atom.to_charlist(&1), ~c"=", &1, ~c" "])
    lines = [:logger_formatter.format(event, %{template: template, legacy_header: true})]

    pattern = Logger.Formatter.compile("$metadata\n")
    time = {{2020, 1, 1}, {0, 0, 0, 0}}
    printed = Map.drop(event.meta, [:file, :line, :domain, :mfa])
    lines = [Logger.Formatter.format(pattern, :error, "m", time, Map.to_list(printed)) | lines]

    for line <- lines do
      text = IO.chardata_to_string(line)
      assert byte_size(text) < 20_000
      assert text |> String.trim_trailing("\n") |> String.split(~r/[\n\r\e]/) |> length() == 1
    end
  end
end
