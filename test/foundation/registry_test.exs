defmodule Foundation.RegistryTest do
  use ExUnit.Case, async: true
  doctest Foundation.Registry
  doctest Foundation.AgentRegistry
end
