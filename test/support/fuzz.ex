defmodule Foundation.Fuzz do
  @moduledoc """
  Runs random inputs, one after the other, for the requested time.

  An input is a number. `:rand`, seeded with the run's seed and that number, generates its contents.
  So each input can be repeated alone. `script/fuzz` sets these variables:

    * `FOUNDATION_FUZZ_SECONDS` - the time for one target; a moment by default
    * `FOUNDATION_FUZZ_SEED` - the run's seed; ExUnit's by default
    * `FOUNDATION_FUZZ_INPUT` - runs only this input
    * `FOUNDATION_FUZZ_NOTE` - a file that names the current input, in case the VM crashes
  """

  import Bitwise
  import ExUnit.Assertions

  @moment_ms 500

  @doc "Runs `fun` for one input after the other. Names the input if it fails."
  @spec each_input(String.t(), (non_neg_integer -> term)) :: :ok
  def each_input(target, fun) do
    seed = number("FOUNDATION_FUZZ_SEED") || ExUnit.configuration()[:seed]
    note = note()

    run = fn input ->
      if note, do: :ok = :file.pwrite(note, 0, "#{seed}:#{input}\n")
      :rand.seed(:exsss, {seed, input, 0})
      attempt(target, seed, input, fun)
    end

    case number("FOUNDATION_FUZZ_INPUT") do
      nil -> for_a_while(target, run)
      input -> run.(input)
    end

    :ok
  end

  defp for_a_while(target, run) do
    seconds = number("FOUNDATION_FUZZ_SECONDS")
    span = if seconds, do: seconds * 1_000, else: @moment_ms
    done = run_until(System.monotonic_time(:millisecond) + span, 0, run)
    if seconds, do: IO.puts("\nfuzz: #{done} inputs of #{target} in #{seconds} s")
  end

  defp run_until(deadline, input, run) do
    run.(input)

    if System.monotonic_time(:millisecond) < deadline,
      do: run_until(deadline, input + 1, run),
      else: input + 1
  end

  defp attempt(target, seed, input, fun) do
    fun.(input)
  catch
    kind, reason ->
      IO.puts(
        :stderr,
        "fuzz: #{target} failed; again: script/fuzz again #{target} #{seed}:#{input}"
      )

      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp note do
    with path when is_binary(path) <- System.get_env("FOUNDATION_FUZZ_NOTE") do
      {:ok, file} = :file.open(path, [:write, :raw])
      file
    end
  end

  defp number(variable) do
    with text when is_binary(text) <- System.get_env(variable), do: String.to_integer(text)
  end

  @doc """
  Runs `fun` and checks that it creates no atom. The count is the VM's, so a test that uses this is
  not async. It calls `fun` once before, because a first run may load modules.
  """
  @spec assert_no_atom_made((() -> term)) :: true
  def assert_no_atom_made(fun) do
    before = :erlang.system_info(:atom_count)
    fun.()
    assert :erlang.system_info(:atom_count) == before
  end

  @doc "Picks one of the values."
  @spec pick([term, ...]) :: term
  def pick(choices), do: Enum.random(choices)

  @doc "Returns true once in `times`, on average."
  @spec once_in(pos_integer) :: boolean
  def once_in(times), do: :rand.uniform(times) == 1

  @doc "Damages the bytes: some are flipped, set, cut, inserted, doubled or swapped."
  @spec damage(binary) :: binary
  def damage(""), do: :rand.bytes(:rand.uniform(8))

  def damage(bytes) do
    size = byte_size(bytes)
    at = :rand.uniform(size) - 1
    length = min(pick([1, 1, 2, 4, 8, 16, 64]), size - at)
    before = binary_part(bytes, 0, at)
    part = binary_part(bytes, at, length)
    rest = binary_part(bytes, at + length, size - at - length)

    case :rand.uniform(9) do
      1 -> before <> flip(part) <> rest
      2 -> before <> :rand.bytes(length) <> rest
      3 -> before <> String.duplicate(<<pick([0, 255, ?0, ?-])>>, length) <> rest
      4 -> before <> rest
      5 -> before <> part <> part <> rest
      6 -> before <> :rand.bytes(length) <> part <> rest
      7 -> before
      8 -> rest <> before <> part
      9 -> bytes <> :rand.bytes(length)
    end
  end

  defp flip(<<byte, rest::binary>>),
    do: <<bxor(byte, 1 <<< (:rand.uniform(8) - 1)), rest::binary>>
end
