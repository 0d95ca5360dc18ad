defmodule Bench.Values do
  @moduledoc false
  # The values that clients keep in registries and tables.

  defmodule Agent do
    @moduledoc false
    defstruct [:id, :state, :started_at, capabilities: [], restarts: 0]
  end

  @doc "All values, by name."
  def all do
    [
      {"42", 42},
      {"nil", nil},
      {"map_2", map(2)},
      {"map_5", map(5)},
      {"map_32", map(32)},
      {"map_100", map(100)},
      {"struct",
       %Agent{id: "agent-17", state: :idle, started_at: 1_700_000_000, capabilities: [:a, :b]}},
      {"config", config()},
      {"list_1000", Enum.to_list(1..1_000)},
      {"tuples_300", for(n <- 1..300, do: {:item, n})},
      {"binary_60", String.duplicate("b", 60)},
      {"binary_1024", String.duplicate("b", 1_024)}
    ]
  end

  @doc "The value of that name."
  def fetch!(name), do: all() |> List.keyfind(name, 0) |> elem(1)

  @doc "Another value of the same shape, as a client's update returns it."
  def next(nil), do: true
  def next(number) when is_integer(number), do: number + 1
  def next(%Agent{} = agent), do: %{agent | restarts: agent.restarts + 1}
  def next(map) when is_map(map), do: Map.replace!(map, map |> Map.keys() |> hd(), 0)
  def next([_first | rest]), do: [0 | rest]
  def next(<<_first, rest::binary>>), do: <<"c", rest::binary>>

  defp map(size), do: Map.new(1..size, &{:"key_#{&1}", &1})

  # The configuration of a connection pool: nested maps and keyword lists, about 60 words.
  defp config do
    %{
      scheme: :https,
      host: "api.example.org",
      port: 443,
      pool: [size: 50, count: 1, max_idle_ms: 30_000],
      connection: %{
        protocols: [:http1],
        transport: [timeout: 5_000, nodelay: true],
        proxy: nil
      }
    }
  end
end
