defmodule Foundation.Test.Absurd do
  @moduledoc """
  Structs whose protocols misbehave. They are not in a test, because protocols are consolidated
  before tests are compiled.
  """

  defmodule Sulky do
    defstruct [:how]
  end

  defimpl String.Chars, for: Sulky do
    def to_string(%{how: :raise}), do: raise("no text")
    def to_string(%{how: :throw}), do: throw(:no_text)
    def to_string(%{how: :exit}), do: exit(:no_text)
    def to_string(%{how: :wrong}), do: <<255>>
    def to_string(%{how: :lines}), do: "a\nb"
    def to_string(%{how: :long}), do: String.duplicate("x", 1_000_000)
  end

  defmodule Uninspectable do
    defstruct [:how]
  end

  defimpl Inspect, for: Uninspectable do
    def inspect(%{how: :raise}, _options), do: raise("no inspection")
    def inspect(%{how: :throw}, _options), do: throw(:no_inspection)
    def inspect(%{how: :exit}, _options), do: exit(:no_inspection)
    def inspect(%{how: :wrong}, _options), do: <<255>>
    def inspect(%{how: :lines}, _options), do: "%Uninspectable{\n}"
  end

  defmodule Secret do
    @derive {Inspect, except: [:password]}
    defstruct [:user, :password]
  end
end
