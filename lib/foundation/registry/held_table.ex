defmodule Foundation.Registry.HeldTable do
  @moduledoc false
  # A table that `Foundation.Registry.TableHolder` creates and hands from owner to owner. It is a
  # struct with the fields `:name`, `:kind`, `:entries`, `:owner` and `:adopt_timeout`. Its
  # directory are persistent terms. A table is the same table as long as it has the same `:entries`.

  @type table :: %{
          :__struct__ => module,
          :name => atom,
          :kind => atom,
          :entries => term,
          :owner => pid | nil,
          :adopt_timeout => timeout,
          optional(atom) => term
        }
  @type options :: %{:name => atom, :kind => atom, optional(atom) => term}

  @doc "Returns all tables of the directory."
  @callback all() :: [table]

  @doc "Returns the table of that name."
  @callback fetch(name :: atom) :: {:ok, table} | :error

  @doc "Makes the table findable by its name."
  @callback publish(table) :: :ok

  @doc "Publishes a table after a restart of the holder, whose clean-up may have withdrawn it."
  @callback restore(table) :: :ok

  @doc "Makes the table's name unknown, unless it belongs to another table by now."
  @callback withdraw(table) :: :ok

  @doc "Returns a new table. The caller is its heir."
  @callback create(options) :: table

  @doc "Applies the options that a new owner may change."
  @callback configure(table, options) :: table

  @doc "Returns the ETS tables that must have an owner. None: the table outlives any process."
  @callback parts(table) :: [:ets.tid()]

  @doc "Returns whether the table exists."
  @callback there?(table) :: boolean

  @doc "Withdraws and destroys the table."
  @callback retire(table) :: :ok
end
