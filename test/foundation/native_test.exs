defmodule Foundation.NativeTest do
  use ExUnit.Case, async: true

  alias Foundation.Native

  test "a panic in the library becomes an exception, and the VM goes on" do
    assert catch_error(Native.library_panic()) == :nif_panicked
    assert is_binary(Native.library_version())
  end

  # What the library says of a panic goes to standard error. Writing it must not fail in turn: a
  # panic while one is being reported aborts the VM.
  @tag :tmp_dir
  test "a panic is survived where nobody reads standard error any more", %{tmp_dir: dir} do
    {:ok, library} = Native.Library.path()

    program = """
    :ok = Foundation.Native.load(#{inspect(library)}, #{inspect(Native.library_version())})
    caught = try do Foundation.Native.library_panic() catch kind, reason -> {kind, reason} end
    IO.inspect(caught)
    """

    output = Path.join(dir, "output")
    # Standard error is a pipe whose reader has ended.
    script = ~s({ "$1" -pa "$2" -e "$3" 2>&1 >"$4"; echo "status $?" >>"$4"; } | true)
    elixir = System.find_executable("elixir")
    arguments = [elixir, Application.app_dir(:foundation, "ebin"), program, output]
    {_none, 0} = System.cmd("sh", ["-c", script, "sh" | arguments])
    assert File.read!(output) == "{:error, :nif_panicked}\nstatus 0\n"
  end
end
