defmodule Foundation.ConfigTest do
  # Not async: the application's environment is everybody's.
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

  test "a setting that is not set has its default" do
    assert Config.get(:engine) == :auto
    assert Config.get(Foundation.Telemetry.SampledEvents)[:window] == 1_000
    assert Config.validate!() == :ok
  end

  test "a section keeps the defaults of what it does not set" do
    put_env(:registry, max_entries: 10)
    assert Config.get(:registry) == [adopt_timeout: 60_000, max_entries: 10]
  end

  test "a value that is not of its type is refused, with the one that was meant" do
    put_env(:engine, :nativ)

    message =
      "expected :engine of config :foundation to be :auto, :native or :ets, got: :nativ, " <>
        "did you mean :native?"

    assert_raise ArgumentError, message, &Config.validate!/0
    assert_raise ArgumentError, message, fn -> Config.get(:engine) end
  end

  test "a value in a section is refused likewise" do
    put_env(:registry, adopt_timeout: -1)

    assert_raise ArgumentError,
                 "expected :adopt_timeout of :registry of config :foundation to be " <>
                   "a non-negative integer, got: -1",
                 &Config.validate!/0
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

  test "flags are booleans and percentages" do
    put_env(:feature_flags, use_ets_agent_registry: false, enforce_no_process_dict: 100)
    assert Config.validate!() == :ok

    put_env(:feature_flags, use_ets_agent_registry: 101)
    assert_raise ArgumentError, ~r/integer from 0 to 100/, &Config.validate!/0
  end

  test "an unknown setting is warned of and stops nothing" do
    put_env(:registy, [])

    log = capture_log(fn -> assert Config.validate!() == :ok end)
    assert log =~ "got: :registy, did you mean :registry?"
  end

  test "the documentation names every setting with its default" do
    {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Config)

    assert docs =~ "* `:engine` (:auto, :native or :ets, default `:auto`) - "
    assert docs =~ "  * `:adopt_timeout` (a non-negative integer, default `60000`) - "
    assert docs =~ "* `Foundation.Telemetry.SampledEvents` - "
  end
end
