defmodule Foundation.Script.FailuresTest do
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  @script Path.expand("../../script/failures", __DIR__)

  @exunit """
  ..

    1) test one is two (NumbersTest)
       test/numbers_test.exs:4
       Assertion with == failed
       code: assert 1 == 2

       stacktrace:
         test/numbers_test.exs:5: (test)

  .
  Finished in 0.1 seconds

  test result: FAILED. 3 passed; 1 failed
  """

  @exunit_failures """
    1) test one is two (NumbersTest)
       test/numbers_test.exs:4
       Assertion with == failed
       code: assert 1 == 2

       stacktrace:
         test/numbers_test.exs:5: (test)
  """

  @cargo """
  test table::one_is_two ... FAILED

  failures:

  ---- table::one_is_two stdout ----
  thread 'table::one_is_two' panicked at src/table.rs:5:9:
  assertion failed: 1 == 2
  stack backtrace:
     0: __rustc::rust_begin_unwind

  failures:
      table::one_is_two

  test result: FAILED. 3 passed; 1 failed; 0 ignored
  """

  @cargo_failures """
  ---- table::one_is_two stdout ----
  thread 'table::one_is_two' panicked at src/table.rs:5:9:
  assertion failed: 1 == 2
  """

  test "script/failures prints each failed test of ExUnit with its message", context do
    assert failures(context, @exunit) == @exunit_failures
  end

  test "script/failures prints each failed test of cargo with its message", context do
    assert failures(context, @cargo) == @cargo_failures
  end

  test "script/failures takes the lists that runs of script/test inside a log have made",
       context do
    trixie = "=== failed:\n--- mix-test.log\n" <> @exunit_failures
    forky = "=== failed:\n--- cargo-test.log\n" <> @cargo_failures

    log =
      Enum.join([
        @exunit <> trixie <> "3 passed, 1 failed\n",
        @cargo <> forky <> "3 passed, 1 failed\n",
        "matrix: failed on trixie forky\n"
      ])

    assert failures(context, log) ==
             "--- mix-test.log\n" <> @exunit_failures <> "--- cargo-test.log\n" <> @cargo_failures
  end

  test "script/failures prints the last 25 lines of a log without a failed test", context do
    log = Enum.map_join(1..100, &"line #{&1}\n")
    assert failures(context, log) == Enum.map_join(76..100, &"line #{&1}\n")
  end

  test "script/failures cuts a message after 25 lines and names the failures after the tenth",
       context do
    message = Enum.map_join(1..30, &"     line #{&1}\n")
    log = Enum.map_join(1..11, &"  #{&1}) test number #{&1}\n#{message}")
    lines = context |> failures(log) |> String.split("\n", trim: true)

    assert Enum.count(lines, &(&1 == "     line 25")) == 10
    assert Enum.count(lines, &(&1 == "     ...")) == 10
    refute "     line 26" in lines
    assert List.last(lines) == "  11) test number 11"
  end

  defp failures(%{tmp_dir: dir}, log) do
    path = Path.join(dir, "step.log")
    File.write!(path, log)
    assert {output, 0} = System.cmd(@script, [path], stderr_to_stdout: true)
    ["--- " <> _path, list] = String.split(output, "\n", parts: 2)
    list
  end
end
