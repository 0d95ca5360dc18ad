defmodule Foundation.CheckpointFuzzTest do
  @moduledoc """
  Damaged checkpoints. A restored state is one that was written. Nothing raises, and damage creates
  no atom. Bytes with a correct checksum are the node's own data, so their atoms may be created.
  """
  # Not async: counts the VM's atoms.
  use Foundation.Case

  import Foundation.Fuzz

  alias Foundation.RandomTerms
  alias Foundation.StateManager.{Checkpoint, Store}

  @head_bytes 42

  setup do
    dir = Path.join(System.tmp_dir!(), "foundation_fuzz_#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm_rf!(dir) end)
    %{dir: dir}
  end

  @tag timeout: :infinity
  test "a damaged checkpoint is never restored as another state", %{dir: dir} do
    # Loads modules and creates atoms that only the first run needs. The error for deleting a
    # directory as a file is one of them.
    for input <- 1..200, do: damaged(input)
    for _ <- 1..10, do: directory(dir)
    {:error, _reason} = :file.delete(dir)

    each_input("checkpoint", fn input ->
      assert_no_atom_made(fn ->
        for _ <- 1..20, do: damaged(input)
        if once_in(10), do: directory(dir)
      end)

      forged()
    end)
  end

  # A checkpoint in memory. Its bytes name an atom that does not exist, and must not create it.
  defp damaged(input) do
    sequence = pick([0, 1, 255, 256, 2 ** 32, 2 ** 64 - 1, :rand.uniform(1_000)])
    {parts, size} = Checkpoint.encode(sequence, state())
    bytes = IO.iodata_to_binary(parts)
    assert byte_size(bytes) == size

    unknown = "fuzz_#{System.unique_integer()}_#{input}"
    atom = <<119, byte_size(unknown), unknown::binary>>

    spoilt =
      case :rand.uniform(4) do
        1 -> several(bytes)
        2 -> binary_part(bytes, 0, min(size, @head_bytes)) <> <<131>> <> atom
        3 -> <<several(binary_part(bytes, 0, @head_bytes))::binary, rest(bytes)::binary>>
        4 -> <<binary_part(bytes, 0, @head_bytes)::binary, several(rest(bytes))::binary>>
      end

    if spoilt != bytes do
      case Checkpoint.decode(sequence, spoilt) do
        {:error, reason} -> assert known?(reason)
        {:ok, _state} -> flunk("taken: #{show(spoilt)}")
      end

      assert_raise ArgumentError, fn -> String.to_existing_atom(unknown) end
    end

    other = sequence + 1
    assert Checkpoint.decode(other, bytes) == {:error, :misplaced}
    assert {:ok, _state} = Checkpoint.decode(sequence, bytes)
  end

  # A forged checkpoint with a correct checksum, as a newer release may write it. It must not raise.
  defp forged do
    {[_head, _digest | payload], _size} = Checkpoint.encode(1, state())
    payload = payload |> IO.iodata_to_binary() |> several()
    head = <<"FNDSTATE", 1::16, 1::64, byte_size(payload)::64>>
    bytes = head <> :erlang.md5([head, payload]) <> payload

    case Checkpoint.decode(1, bytes) do
      {:ok, _state} -> :ok
      {:error, reason} -> assert reason == :undecodable
    end
  end

  # A whole directory: the newest undamaged checkpoint is restored.
  defp directory(dir) do
    File.rm_rf!(dir)
    {:ok, store, :none, []} = Store.open(dir)
    states = for _ <- 1..pick([1, 2, 2, 2]), do: state()

    {_store, written} =
      Enum.reduce(states, {store, []}, fn state, {store, written} ->
        {:ok, store, path, _size} = Store.write(store, state)
        {store, [{path, state} | written]}
      end)

    whole = Enum.filter(written, fn {path, _state} -> once_in(2) or not spoil(path, dir) end)
    strangers(dir)

    assert {:ok, opened, found, problems} = Store.open(dir)

    case {whole, found} do
      {[], found} ->
        assert found == :none

      {[{path, state} | _], found} ->
        assert {:ok, came_back, ^path} = found
        assert :erlang.term_to_binary(came_back) == :erlang.term_to_binary(state)
    end

    for {_path, reason} <- problems, do: assert(known?(reason))

    # The store goes on: the next checkpoint is restored too.
    next = state()
    assert {:ok, _store, path, _size} = Store.write(opened, next)
    assert {:ok, _store, {:ok, came_back, ^path}, _problems} = Store.open(dir)
    assert :erlang.term_to_binary(came_back) == :erlang.term_to_binary(next)
  end

  # Returns whether the file has changed.
  defp spoil(path, dir) do
    before = File.read!(path)

    case :rand.uniform(8) do
      1 -> File.rm!(path)
      2 -> File.write!(path, "")
      3 -> File.rename!(path, Path.join(dir, "#{pick([7, 10 ** 19])}.checkpoint"))
      4 -> replace(path, &File.mkdir!/1)
      5 -> replace(path, &File.ln_s!("nowhere", &1))
      _ -> File.write!(path, several(before))
    end

    File.read(path) != {:ok, before}
  end

  defp replace(path, make) do
    File.rm!(path)
    make.(path)
  end

  # Adds files that are not checkpoints of this server.
  defp strangers(dir) do
    for _ <- 1..:rand.uniform(4) do
      digits = pick([10 ** 20 - 1, 2 ** 64 - 1, 2 ** 64, 2 ** 63, 10 ** 19, :rand.uniform(9)])
      padded = digits |> Integer.to_string() |> String.pad_leading(20, "0")

      name =
        pick([
          "#{padded}.checkpoint",
          "#{digits}.checkpoint",
          "#{padded}.checkpoint.tmp",
          "#{padded}.checkpoint.1-2.tmp",
          "#{padded}.checkpoint\n",
          "notes.txt"
        ])

      path = Path.join(dir, name)
      if not File.exists?(path), do: File.write!(path, pick(["", "text", :rand.bytes(100)]))
    end
  end

  defp state do
    pick([
      nil,
      %{count: :rand.uniform(100)},
      Map.new(1..:rand.uniform(50), &{&1, "value #{&1}"}),
      :rand.bytes(:rand.uniform(200)),
      :binary.copy("large", 20_000),
      {:state, [1.5, -0.0, self()], %{nested: [%{a: 1}]}},
      RandomTerms.term(RandomTerms.shared(), 3)
    ])
  end

  defp several(bytes),
    do: Enum.reduce(1..:rand.uniform(3), bytes, fn _, bytes -> damage(bytes) end)

  defp rest(bytes), do: binary_part(bytes, @head_bytes, byte_size(bytes) - @head_bytes)

  defp known?(reason) do
    match?({:unsupported_version, _}, reason) or
      reason in [:not_a_checkpoint, :wrong_length, :wrong_checksum, :misplaced, :eisdir, :enoent]
  end

  defp show(bytes), do: inspect(bytes, limit: :infinity, printable_limit: :infinity)
end
