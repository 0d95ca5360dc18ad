defmodule Foundation.NativeArguments do
  @moduledoc """
  The types of each argument of each function of the library, and terms of all types.
  """

  import Foundation.Case, only: [foreign_pid: 0]

  alias Foundation.Native

  @arguments %{
    library_version: [],
    live_counts: [],
    registry_start: [:name, :kind, :natural, :atoms, :pairs, :bound, :bound],
    registry_stop: [:name],
    registry_config: [:name],
    registry_info: [:name],
    registry_count: [:name],
    registry_groups: [:name],
    registry_names: [],
    registry_register: [:name, :any, :any],
    registry_register_for: [:name, :pid, :any, :any],
    registry_unregister: [:name, :any],
    registry_unregister_for: [:name, :pid, :any],
    registry_whereis: [:name, :any],
    registry_fetch: [:name, :any],
    registry_set: [:name, :any, :any],
    registry_replace: [:name, :any, :pid, :any, :any],
    registry_lookup: [:name, :any],
    registry_lookup_many: [:name, :list],
    registry_values: [:name, :any, :pid],
    registry_entries: [:name, :any, :pid],
    registry_remove: [:name, :any, :pid, :numbers],
    registry_keys: [:name, :pid, :zero],
    registry_walk: [:name, :walk_cursor],
    registry_walk_key: [:name, :any, :natural],
    registry_broadcast: [:name, :any, :any, :natural],
    registry_broadcast_local: [:name, :any, :any, :natural],
    registry_meta: [:name, :any],
    registry_put_meta: [:name, :any, :any],
    registry_delete_meta: [:name, :any],
    registry_remote_down: [:name, :foreign_pid],
    registry_remotes: [:name],
    registry_watch: [:name, :local_pid],
    registry_take_cleaned: [:name],
    concurrent_table_new: [],
    concurrent_table_new_unowned: [],
    concurrent_table_end: [:table],
    concurrent_table_put: [:table, :any, :any],
    concurrent_table_put_new: [:table, :any, :any],
    concurrent_table_get: [:table, :any, :any],
    concurrent_table_fetch: [:table, :any],
    concurrent_table_replace: [:table, :any, :natural, :any],
    concurrent_table_delete: [:table, :any],
    concurrent_table_size: [:table],
    concurrent_table_walk: [:table, :natural],
    event_log_start: [:name, :path, :natural, :small_natural, :natural, :natural],
    event_log_stop: [:name],
    event_log_owner: [:name],
    event_log_names: [],
    event_log_append: [:name, :log_name, :expected, :integer, :binaries, :reference],
    event_log_put_snapshot: [:name, :log_name, :natural, :bytes, :reference],
    event_log_trim: [:name, :log_name, :natural, :reference],
    event_log_delete: [:name, :log_name, :expected, :reference],
    event_log_subscribe: [:name, :log_name, :stream_or_all, :start, :local_pid, :reference, :any],
    event_log_subscriptions: [:name],
    event_log_server: [:name, :log_name],
    event_log_release: [:name, :log_name, :stream_or_all],
    event_log_forget: [:name, :log_name, :reference],
    event_log_ack: [:name, :log_name, :natural],
    event_log_acknowledged: [:name, :log_name],
    event_log_watch: [:name, :stream_or_all, :natural, :local_pid],
    event_log_read: [:name, :stream_or_all, :natural, :natural, :natural, :direction],
    event_log_snapshot: [:name, :log_name],
    event_log_version: [:name, :log_name],
    event_log_position: [:name],
    event_log_streams: [:name, :natural],
    event_log_info: [:name],
    event_log_verify: [:name],
    event_log_backup: [:name, :path],
    telemetry_start: [:natural, :natural, :natural, :natural, :natural],
    telemetry_seal: [],
    telemetry_stop: [],
    telemetry_started: [],
    telemetry_divert: [:boolean],
    telemetry_admit: [:event, :any, :optional],
    telemetry_append: [:event, :map, :map],
    telemetry_count: [:event, :outcome],
    telemetry_configure: [:event, :optional, :optional, :optional],
    telemetry_settings: [:event],
    telemetry_totals: [:event],
    telemetry_events: [:natural],
    telemetry_windows: [],
    telemetry_own_windows: [:event],
    telemetry_sweep: [],
    telemetry_peek: [:event, :natural, :natural],
    telemetry_ack: [:event, :natural],
    sampler_configure: [:any, :strategy],
    sampler_decide: [:any],
    sampler_stats: [:any],
    sampler_events: [:natural],
    sampler_reset: [],
    span_start: [:any, :map],
    span_finish: [:maybe_id],
    span_current: [],
    span_finish_of: [:local_pid, :id],
    span_current_of: [:local_pid],
    span_put_attributes: [:map],
    span_add_event: [:map],
    span_add_link: [:map],
    span_enter: [:id, :id, :byte, :tracestate],
    span_leave: [:natural],
    span_watch: [:local_pid],
    span_abandoned: [],
    span_forget: [:id],
    resilience_stop: [:name],
    resilience_owner: [:name],
    resilience_names: [],
    bulkhead_start: [:name, :natural_32, :natural_32, :bound, :order, :natural, :bound],
    bulkhead_acquire: [:bulkhead, :natural, :maybe_bound],
    bulkhead_wait: [:bulkhead, :natural, :reference],
    bulkhead_cancel: [:bulkhead, :natural],
    bulkhead_release: [:bulkhead, :local_pid, :natural],
    bulkhead_resize: [:bulkhead, :natural_32],
    bulkhead_info: [:bulkhead],
    bulkhead_full: [:bulkhead, :natural],
    breaker_start: [:name, :breaker_settings, :any, :natural, :bound],
    breaker_ask: [:breaker],
    breaker_record: [:breaker, :local_pid, :natural, :call_outcome],
    breaker_state: [:breaker],
    breaker_info: [:breaker],
    breaker_isolate: [:breaker],
    breaker_reset: [:breaker],
    breaker_classify: [:breaker],
    breaker_take_transitions: [:breaker],
    breaker_tripped: [:breaker, :natural],
    limiter_start: [:name, :algorithm, :limits, :natural, :bound],
    limiter_take: [:limiter, :cost, :bound],
    limiter_reserve: [:limiter, :cost, :bound],
    limiter_settle: [:limiter, :natural, :cost, :cost],
    limiter_info: [:limiter],
    cache_open: [:new_name, :natural, :bound, :early, :bound],
    cache_stop: [:name],
    cache_names: [],
    cache_get: [:cache, :any],
    cache_begin: [:cache, :any, :maybe_early],
    cache_begin_again: [:cache, :any, :maybe_early],
    cache_cancel: [:cache, :natural],
    cache_finish: [:cache, :any, :natural, :load_outcome],
    cache_put: [:cache, :any, :any, :bound, :bound],
    cache_delete: [:cache, :any],
    cache_clear: [:cache],
    cache_expire: [:cache],
    cache_size: [:cache],
    cache_stats: [:cache],
    cache_walk: [:cache, :natural]
  }

  # These load the library, or exist only in a special build.
  @others [__info__: 1, load: 2, reattach: 0, library_calls: 0]

  @doc "The types of each function's arguments."
  def all, do: @arguments

  @doc "The functions of the library, from the module of its stubs."
  def functions, do: Enum.sort(Native.__info__(:functions) -- @others)

  @doc """
  Terms of all types, with tags for `accepted/1`. Functions, references and ports of other nodes are
  among them. The last terms are of several types at once.
  """
  def terms do
    [
      {:no_kind_and_no_registry, :atom},
      {nil, nil},
      {true, :boolean},
      {0, :zero},
      {7, :natural},
      {256, :natural},
      {-1, :negative},
      {2 ** 63, :large},
      {2 ** 64, :bignum},
      {-(2 ** 64), :bignum},
      {2 ** 200, :bignum},
      {1.5, :float},
      {-0.0, :float},
      {"binary", :binary},
      {"", :binary},
      {String.duplicate("a", 100), :binary},
      {binary_part(String.duplicate("part", 100), 3, 200), :binary},
      {<<1::3>>, :bitstring},
      {{1, 2}, :pair},
      {{1, 2, 3}, :cursor},
      {{}, :tuple},
      {{:always}, :tuple},
      {{:random, :no_rate}, :tuple},
      {{:random, 2 ** 64}, :tuple},
      {%{}, :map},
      {%{key: %{key: 1}}, :map},
      {fn -> :fun end, :fun},
      {&Enum.map/2, :fun},
      {make_ref(), :reference},
      {foreign_reference(), :reference},
      {foreign_port(), :port},
      {hd(Port.list()), :port},
      {self(), :local_pid},
      {foreign_pid(), :foreign_pid},
      {[], :empty},
      {[:a, :b], :atoms},
      {[1, 2], :numbers},
      {[a: 1, b: 2], :pairs},
      {[1 | 2], :improper},
      {[:a | :b], :improper},
      {[{:a, 1} | :b], :improper},
      {["name"], :list},
      {Enum.to_list(1..100), :numbers},
      {List.duplicate(:a, 33), :long_name}
    ]
  end

  @doc "The tags of terms that an argument may have."
  def accepted(type)
  # For an atom that names no registry, the answer is nil.
  def accepted(:name), do: [:atom, nil, :boolean]
  def accepted(:kind), do: []
  def accepted(:zero), do: [:zero]
  def accepted(:natural), do: [:zero, :natural, :large]
  def accepted(:optional), do: [nil | accepted(:natural)]
  def accepted(:bound), do: accepted(:natural)
  # 256 is out of range.
  def accepted(:byte), do: [:zero, :natural]
  def accepted(:boolean), do: [:boolean]
  def accepted(:table), do: []
  def accepted(:map), do: [:map]
  def accepted(:atoms), do: [:atoms, :empty, :long_name]
  def accepted(:numbers), do: [:numbers, :empty]
  def accepted(:pairs), do: [:pairs, :empty]

  def accepted(:list),
    do: [:empty, :atoms, :numbers, :pairs, :improper, :list, :long_name]

  def accepted(:walk_cursor), do: [:cursor | accepted(:natural)]
  def accepted(:pid), do: [:local_pid, :foreign_pid]
  def accepted(:foreign_pid), do: [:foreign_pid]
  def accepted(:local_pid), do: [:local_pid]
  def accepted(:event), do: [:atoms]
  def accepted(:outcome), do: []
  def accepted(:strategy), do: []
  # A binary without digits is an id that no span has.
  def accepted(type) when type in [:maybe_id, :tracestate], do: [nil, :binary]
  def accepted(:id), do: []
  # For an atom that names no instance, the answer is nil. A pair is an instance with a key.
  def accepted(type) when type in [:bulkhead, :breaker, :limiter],
    do: [:tuple | accepted(:name)]

  def accepted(type) when type in [:cache, :new_name], do: accepted(:name)
  def accepted(:early), do: [:float, :natural, :zero, :large]
  def accepted(:maybe_early), do: [nil | accepted(:early)]
  def accepted(:natural_32), do: [:zero, :natural]
  def accepted(:maybe_bound), do: [nil | accepted(:bound)]
  def accepted(:reference), do: [:reference]
  # The answer names the limits.
  def accepted(:cost), do: Enum.uniq(for {_term, tag} <- terms(), do: tag)

  def accepted(type)
      when type in [:order, :call_outcome, :algorithm, :limits, :breaker_settings, :load_outcome],
      do: []

  def accepted(type) when type in [:path, :log_name, :bytes, :stream_or_all], do: [:binary]
  def accepted(:small_natural), do: [:zero, :natural]
  def accepted(:integer), do: [:zero, :natural, :negative]
  def accepted(type) when type in [:expected, :start], do: accepted(:natural)
  def accepted(:binaries), do: [:empty, :list]
  def accepted(:direction), do: []

  @doc "A valid argument of a type, in a call about the registry of that name."
  def valid(type, name)
  def valid(:name, name), do: name
  def valid(:kind, _name), do: :unique
  def valid(type, _name) when type in [:natural, :zero, :walk_cursor, :byte], do: 0
  def valid(:optional, _name), do: nil
  def valid(:bound, _name), do: :infinity
  def valid(:pid, _name), do: self()
  def valid(:local_pid, _name), do: self()
  def valid(:foreign_pid, _name), do: foreign_pid()
  def valid(:any, _name), do: :term
  def valid(:boolean, _name), do: false
  def valid(:table, _name), do: Native.concurrent_table_new()
  def valid(:map, _name), do: %{}
  def valid(:event, _name), do: [:foundation_test, :arguments]
  def valid(:outcome, _name), do: :suppressed
  def valid(:strategy, _name), do: :always
  def valid(type, _name) when type in [:maybe_id, :tracestate], do: nil
  def valid(:id, _name), do: "0123456789abcdef"

  def valid(type, _name) when type in [:bulkhead, :breaker, :limiter, :cache],
    do: :"#{__MODULE__}.#{type}"

  # Opening a cache of a name that there is sets its limits.
  def valid(:new_name, name), do: valid(:cache, name)
  def valid(type, _name) when type in [:early, :maybe_early], do: 1.0
  def valid(:load_outcome, _name), do: {:failed, :reason}
  def valid(:natural_32, _name), do: 1
  def valid(:maybe_bound, _name), do: 0
  def valid(:reference, _name), do: make_ref()
  def valid(:order, _name), do: :fifo
  def valid(:call_outcome, _name), do: :ok
  def valid(:algorithm, _name), do: :token_bucket
  def valid(:limits, _name), do: [{:default, 10, 1_000}]
  def valid(:cost, _name), do: 1
  def valid(:breaker_settings, _name), do: [{:count, 10}, 5, 0.5, 1, 0.5, 1, 1, 0.1, 1, 1]
  def valid(type, _name) when type in [:atoms, :numbers, :pairs, :list], do: []

  def valid(:path, _name), do: Path.join(System.tmp_dir!(), "foundation_arguments")
  def valid(:log_name, _name), do: "name"
  def valid(:bytes, _name), do: "bytes"
  def valid(:stream_or_all, _name), do: :all
  def valid(:small_natural, _name), do: 1_000
  def valid(:integer, _name), do: 0
  def valid(:expected, _name), do: :any
  def valid(:start, _name), do: :end
  def valid(:binaries, _name), do: ["event"]
  def valid(:direction, _name), do: :forward

  # NEWER_REFERENCE_EXT and V4_PORT_EXT of the external term format.
  defp foreign_reference do
    :erlang.binary_to_term(<<131, 90, 3::16, node_name()::binary, 1::32, 5::32, 6::32, 7::32>>)
  end

  defp foreign_port,
    do: :erlang.binary_to_term(<<131, 120, node_name()::binary, 5::64, 1::32>>)

  defp node_name, do: <<119, 14, "nobody@nowhere">>
end
