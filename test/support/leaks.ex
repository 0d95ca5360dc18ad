defmodule Foundation.Leaks do
  @moduledoc """
  Registries that are filled and go, in a VM where nothing else is: what the library counts is the whole
  library's, and what others had goes when it is collected.
  """

  import Foundation.Case
  import Foundation.Eventually

  alias Foundation.{Native, Peer, Registry, Terms}

  @timeout_ms 60_000

  @doc """
  What the library counted in a VM of its own before there was a registry of these `keys`, when
  it was full of terms of every kind, and after it was stopped.
  """
  @spec of_registry(Registry.keys()) :: %{before: map, full: map, left: map}
  def of_registry(keys) do
    peer = Peer.start_alone()
    counted = :peer.call(peer, __MODULE__, :count, [keys], @timeout_ms)
    Peer.stop(peer)
    counted
  end

  @doc false
  def count(keys) do
    {:ok, _started} = Application.ensure_all_started(:foundation)
    before = Native.registry_live_counts()
    name = unique_name("leaks")
    {:ok, owner} = Registry.start_link(name: name, keys: keys, engine: :native)
    fill(name)
    full = Native.registry_live_counts()

    Process.unlink(owner)
    GenServer.stop(owner, :shutdown)
    %{before: before, full: full, left: settled(before)}
  end

  # Some go one by one, some with their process, the rest with the table.
  defp fill(name) do
    terms = Terms.all()
    for {about, term} <- terms, do: {:ok, _owner} = Registry.register(name, term, about)
    for {about, term} <- terms, do: {:ok, _owner} = Registry.register(name, about, term)
    for {_about, term} <- Enum.take_every(terms, 2), do: Registry.unregister(name, term)

    worker = start_worker()
    run(worker, fn -> for key <- 1..2_000, do: Registry.register(name, %{key => key}, [key]) end)
    kill(worker)
    for {_about, term} <- terms, do: Registry.lookup(name, term)
  end

  # What they are when they are what they were, or at the deadline.
  defp settled(before) do
    eventually(fn -> Native.registry_live_counts() == before end)
    before
  rescue
    ExUnit.AssertionError -> Native.registry_live_counts()
  end
end
