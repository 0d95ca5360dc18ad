defmodule Foundation.ConfigTest do
  # Not async: the application's environment is global.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  alias Foundation.Config

  doctest Config

  defp put_env(key, value) do
    before = Application.fetch_env(:foundation, key)
    Application.put_env(:foundation, key, value)

    on_exit(fn ->
      case before do
        {:ok, value} -> Application.put_env(:foundation, key, value)
        :error -> Application.delete_env(:foundation, key)
      end
    end)
  end

  test "an unset setting has its default" do
    assert Config.get(:engine) == :auto
    assert Config.get(Foundation.Telemetry.SampledEvents)[:window] == 1_000
    assert Config.validate!() == :ok
  end

  test "a section keeps the defaults of its unset settings" do
    put_env(:registry, max_entries: 10)
    assert Config.get(:registry) == [adopt_timeout: 60_000, max_entries: 10]
  end

  test "a value of the wrong type is refused, with a suggestion" do
    put_env(:engine, :nativ)

    message =
      "expected :engine of config :foundation to be :auto, :native or :ets, got: :nativ, " <>
        "did you mean :native?"

    assert_raise ArgumentError, message, &Config.validate!/0
    assert_raise ArgumentError, message, fn -> Config.get(:engine) end
  end

  test "a value of the wrong type in a section is refused" do
    put_env(:registry, adopt_timeout: -1)

    assert_raise ArgumentError,
                 "expected :adopt_timeout of :registry of config :foundation to be " <>
                   "an integer from 0 to 4294967295 or :infinity, got: -1",
                 &Config.validate!/0
  end

  test "a number out of its range is refused, and its message names the setting and the range" do
    events = Foundation.Telemetry.SampledEvents

    for {section, key, range} <- [
          {:registry, :adopt_timeout, "0 to 4294967295 or :infinity"},
          {:registry, :max_entries, "1 to 4294967295 or :infinity"},
          {:error_context, :max_depth, "500 to 100000"},
          {:error_context, :max_breadcrumbs, "1 to 10000"},
          {:error_context, :max_value_bytes, "255 to 4096"},
          {:error_context, :max_printed_bytes, "4096 to 16384"},
          {events, :window, "0 to 4294967295 or :infinity"},
          {events, :batch_timeout, "1 to 4294967295 or :infinity"},
          {events, :max_windows, "1 to 4294967295"},
          {events, :max_pending, "1 to 4294967295"},
          {events, :batch_size, "1 to 4294967295"}
        ] do
      for value <- [-1, 2 ** 32, 10 ** 13, 2 ** 64, 2 ** 1_000, 1.0, "1", nil] do
        put_env(section, [{key, value}])

        message =
          "expected #{inspect(key)} of #{inspect(section)} of config :foundation to be " <>
            "an integer from #{range}, got: #{inspect(value)}"

        assert_raise ArgumentError, message, &Config.validate!/0
      end

      Application.delete_env(:foundation, section)
    end

    put_env(:feature_flags, use_ets_agent_registry: 2 ** 64)
    assert_raise ArgumentError, ~r/an integer from 0 to 100, got: .*1844/, &Config.validate!/0
  end

  test "a time may be :infinity or the longest that a timer takes" do
    for value <- [:infinity, 2 ** 32 - 1] do
      put_env(:registry, adopt_timeout: value)
      put_env(Foundation.Telemetry.SampledEvents, window: value, batch_timeout: value)
      assert Config.validate!() == :ok
      assert Config.get(:registry)[:adopt_timeout] == value
    end
  end

  test "an unknown key in a section is refused" do
    put_env(Foundation.Telemetry.SampledEvents, windw: 1)

    assert_raise ArgumentError, ~r/got: :windw, did you mean :window\?$/, &Config.validate!/0
  end

  test "a section that is not a keyword list is refused" do
    put_env(:registry, %{adopt_timeout: 1})

    assert_raise ArgumentError,
                 "expected :registry of config :foundation to be a keyword list, " <>
                   "got: %{adopt_timeout: 1}",
                 &Config.validate!/0
  end

  test "flags accept booleans and percentages" do
    put_env(:feature_flags, use_ets_agent_registry: false, enforce_no_process_dict: 100)
    assert Config.validate!() == :ok

    put_env(:feature_flags, use_ets_agent_registry: 101)
    assert_raise ArgumentError, ~r/integer from 0 to 100/, &Config.validate!/0
  end

  test "an unknown setting logs a warning and does not stop the start" do
    put_env(:registy, [])

    log = capture_log(fn -> assert Config.validate!() == :ok end)
    assert log =~ "got: :registy, did you mean :registry?"
  end

  test "the documentation names every setting with its default" do
    {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Config)

    assert docs =~ "* `:engine` (:auto, :native or :ets, default `:auto`) - "

    assert docs =~
             "  * `:adopt_timeout` (an integer from 0 to 4294967295 or :infinity, default `60000`) - "

    assert docs =~ "* `Foundation.Telemetry.SampledEvents` - "
  end
end
