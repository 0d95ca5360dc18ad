defmodule Foundation.StateManager.Checkpoint do
  @moduledoc false
  # One checkpoint: a term in one file.
  #
  #     8 bytes   "FNDSTATE"
  #     2 bytes   version of this format, 1
  #     8 bytes   sequence number, which is also the file's name
  #     8 bytes   length of the payload
  #    16 bytes   MD5 of the 26 bytes above and of the payload
  #     n bytes   payload: the term in the external term format
  #
  # MD5 detects torn writes and bad disks. It does not prevent forgery: a program that can write
  # to the directory can write a valid checkpoint. With 128 bits no accident passes, unlike with
  # the 32 bits of a CRC. MD5 also needs no other application.

  @magic "FNDSTATE"
  @version 1
  @head_bytes 26
  # Hashed at once: some 50 µs, so that a large state does not hold its scheduler.
  @slice_bytes 32 * 1024

  @type sequence :: non_neg_integer
  @type reason ::
          :not_a_checkpoint
          | {:unsupported_version, non_neg_integer}
          | :wrong_length
          | :wrong_checksum
          | :misplaced
          | :undecodable
          | File.posix()

  @doc "The bytes of a checkpoint, as a list of binaries, and how many they are."
  @spec encode(sequence, term) :: {[binary], pos_integer}
  def encode(sequence, term) do
    payload = :erlang.term_to_iovec(term)
    length = IO.iodata_length(payload)
    head = <<@magic, @version::16, sequence::64, length::64>>
    {[head, digest([head | payload]) | payload], @head_bytes + 16 + length}
  end

  @doc "The bytes before the payload."
  @spec head_bytes() :: pos_integer
  def head_bytes, do: @head_bytes + 16

  @doc "Whether a file of `size` bytes that begins with `head` is as long as it says."
  @spec whole?(binary, non_neg_integer) :: boolean
  def whole?(<<_::binary-size(@head_bytes - 8), length::64, _digest::binary-size(16)>>, size),
    do: length == size - head_bytes()

  def whole?(_head, _size), do: false

  @doc "The term of a checkpoint whose sequence number, by its file's name, is `sequence`."
  @spec decode(sequence, binary) :: {:ok, term} | {:error, reason}
  def decode(
        sequence,
        <<head::binary-size(@head_bytes), digest::binary-size(16), payload::binary>>
      ) do
    case head do
      <<@magic, @version::16, written::64, length::64>> ->
        cond do
          length != byte_size(payload) -> {:error, :wrong_length}
          digest != digest([head, payload]) -> {:error, :wrong_checksum}
          written != sequence -> {:error, :misplaced}
          true -> term(payload)
        end

      <<@magic, version::16, _::binary>> ->
        {:error, {:unsupported_version, version}}

      _ ->
        {:error, :not_a_checkpoint}
    end
  end

  def decode(_sequence, <<@magic, _::binary>>), do: {:error, :wrong_length}
  def decode(_sequence, _bytes), do: {:error, :not_a_checkpoint}

  # A payload that passed the checksum was written by `encode/2`. A newer release may still have
  # used an encoding that this one does not know.
  defp term(payload) do
    {:ok, :erlang.binary_to_term(payload)}
  rescue
    ArgumentError -> {:error, :undecodable}
  end

  defp digest(binaries) do
    binaries |> Enum.reduce(:erlang.md5_init(), &update/2) |> :erlang.md5_final()
  end

  defp update(<<slice::binary-size(@slice_bytes), rest::binary>>, context) do
    update(rest, :erlang.md5_update(context, slice))
  end

  defp update(rest, context), do: :erlang.md5_update(context, rest)
end
