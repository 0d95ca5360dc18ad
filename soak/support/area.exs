defmodule Soak.Area do
  @moduledoc false
  # The callbacks of an area.

  @type member :: %{
          count: pos_integer,
          init: (index :: pos_integer -> state :: term),
          step: (state :: term -> {operations :: non_neg_integer, state :: term}),
          mortal?: boolean
        }
  @type fault :: {kind :: String.t(), weight :: pos_integer, (() -> term)}

  @callback name() :: String.t()
  @doc "The invariants: a name for the checks, and a description for the report."
  @callback invariants() :: keyword(String.t())
  @doc "Starts the processes and tables that the area's crew works on."
  @callback open(Soak.Options) :: term
  @doc "The members of the crew. Each repeats its step, seeded, and is replaced when it dies."
  @callback crew() :: [member]
  @doc "The faults. A fault returns when there is something to break again."
  @callback faults(engine :: :native | :ets) :: [fault]
  @doc "Checks, while the crew waits, what is exact only then."
  @callback audit() :: term

  @doc "Removes what the area leaves on disk, after the last audit."
  @callback close() :: term
  @optional_callbacks close: 0
end
