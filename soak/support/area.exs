defmodule Soak.Area do
  @moduledoc false
  # What the soak asks of an area.

  @type member :: %{
          count: pos_integer,
          init: (index :: pos_integer -> state :: term),
          step: (state :: term -> {operations :: non_neg_integer, state :: term}),
          mortal?: boolean
        }
  @type fault :: {kind :: String.t(), weight :: pos_integer, (() -> term)}

  @callback name() :: String.t()
  @doc "What holds, by a name for the checks and in words for the report."
  @callback invariants() :: keyword(String.t())
  @doc "Starts what the area's crew works on."
  @callback open(Soak.Options) :: term
  @doc "Who works: each repeats its step, seeded, and is replaced when it dies."
  @callback crew() :: [member]
  @doc "What may be broken. A fault returns when there is something to break again."
  @callback faults(engine :: :native | :ets) :: [fault]
  @doc "Checks, while the crew waits, what is exact only then."
  @callback audit() :: term
end
