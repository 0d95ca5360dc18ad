defmodule Foundation.NativeTest do
  use ExUnit.Case, async: true

  alias Foundation.Native

  test "a panic in the library becomes an exception, and the VM goes on" do
    assert catch_error(Native.library_panic()) == :nif_panicked
    assert is_binary(Native.library_version())
  end
end
