defmodule Foundation.ErrorContext.LoggingTest do
  # Not async: Logger and the flags are the VM's.
  use Foundation.Case, async: false

  import ExUnit.CaptureLog

  alias Foundation.ErrorContext
  alias Foundation.Test.Absurd.{Secret, Sulky, Uninspectable}

  require Logger

  # What is logged past the tests' own captures.
  @moduletag :capture_log

  # A handler of Erlang's `:logger`, and what a JSON formatter would be: both see events as they are.
  defmodule Handler do
    def log(event, %{config: %{test: test}}), do: send(test, {:event, event})
  end

  defmodule JSONFormatter do
    # Strict, as encoders are: a binary that is not UTF-8, or a term it has no form for, raises.
    def format(%{meta: meta}, keys) do
      pairs = for key <- keys, is_map_key(meta, key), do: {key, Map.fetch!(meta, key)}
      IO.iodata_to_binary([?{, Enum.map_intersperse(pairs, ?,, &pair/1), ?}])
    end

    defp pair({key, value}), do: [encode(Atom.to_string(key)), ?:, encode(value)]

    defp encode(value) when is_integer(value), do: Integer.to_string(value)
    defp encode(value) when is_float(value), do: Float.to_string(value)
    defp encode(value) when value in [true, false, nil], do: inspect(value)
    defp encode(value) when is_atom(value), do: encode(Atom.to_string(value))

    defp encode(value) when is_binary(value) do
      true = String.valid?(value)
      [?", String.replace(value, ~w(\\ "), &("\\" <> &1)), ?"]
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

  test "the console's usual format prints what is in the context" do
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

  test "a handler of :logger and a JSON formatter see the same" do
    events(fn ->
      ErrorContext.with_context(%{request_id: 123, value: {:a, "b"}}, fn ->
        :logger.error(~c"by Erlang's logger")
        Logger.error("by Elixir's")
      end)
    end)

    for _two <- 1..2 do
      assert_receive {:event, event}
      assert event.meta.error_context == %{request_id: 123, value: {:a, "b"}}

      assert JSONFormatter.format(event, [:request_id, :value]) ==
               ~S({"request_id":123,"value":"{:a, \"b\"}"})
    end
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
        assert log =~ "value="
        assert log =~ "absurd"
        assert byte_size(log) < 20_000

        events(fn -> set.(fn -> Logger.error("absurd") end) end)
        assert_receive {:event, %{meta: meta} = event}
        assert JSONFormatter.format(event, [:request_id, :value]) =~ ~s("request_id":123)
        assert printable?(meta.value)

        context = meta.error_context
        assert value === if(is_struct(context), do: context.metadata.value, else: context.value)
      end
    end
  end

  test "no key fails, either" do
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

  test "what a struct hides of itself stays hidden" do
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
             application module function error_logger ansi_color)a do
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

  defp printable?(value) when is_atom(value) or is_number(value), do: true
  defp printable?(value), do: is_binary(value) and String.valid?(value)
end
