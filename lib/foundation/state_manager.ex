defmodule Foundation.StateManager do
  alias Foundation.Options
  alias Foundation.StateManager.Server

  @schema [
    checkpoint_dir: [
      type: :string,
      doc: """
      The directory of this server's checkpoints, and of no other server's: a second one is
      refused. Made if it does not exist, with mode 0700. Required.
      """
    ],
    checkpoint_interval: [
      type: Options.time(1),
      default: 5_000,
      doc: """
      After how many milliseconds a changed state is checkpointed. `:infinity` leaves it to
      `checkpoint/2` and to the server's end.
      """
    ]
  ]
  @own Keyword.keys(@schema)

  @moduledoc """
  A GenServer whose state comes back: after a crash, a restart of the node, a loss of power.

      defmodule MyApp.Visits do
        use Foundation.StateManager, checkpoint_interval: 1_000

        @impl Foundation.StateManager
        def initial_state(_options), do: %{}

        @impl GenServer
        def handle_call({:visit, page}, _from, visits) do
          visits = Map.update(visits, page, 1, &(&1 + 1))
          {:reply, visits[page], visits}
        end
      end

      children = [{MyApp.Visits, checkpoint_dir: "/var/lib/my_app/visits"}]

  In place of `c:GenServer.init/1` there is `c:initial_state/1`, which is asked for a state only
  where no checkpoint is found. Every other callback of `GenServer` is as usual.

  ## Options

  Of `use`, as defaults, and of `start_link/1`, where they win:

  #{Options.docs(@schema)}

  `start_link/1` also takes `:name` (default: the module; `nil` for none), and `:debug`,
  `:hibernate_after`, `:spawn_opt` and `:timeout`, which `GenServer.start_link/3` gets. Whatever
  else it is given is for `c:initial_state/1`. An option of `use` that is none of the above goes to
  the child specification (`restart: :transient`). There `:shutdown` is 30 seconds rather
  than 5, for the last checkpoint to be written in, and `:id` is the `:name` that was given.

  ## Consistency: when there is a checkpoint, and what is lost

  A checkpoint is written

    * when `:checkpoint_interval` has passed since the last one, if a callback has run meanwhile;
    * when `checkpoint/2` asks for it;
    * when the server ends, before its `c:GenServer.terminate/2`: after an orderly stop, a
      shutdown by its supervisor, or a raise in a callback (with the state from before that
      callback).

  A kill of the node, or of the server by `Process.exit(pid, :kill)`, loses the changes since the
  last checkpoint. That is at most the interval, plus the time of the write and of the messages
  that were in the mailbox before it.

  The server traps exits. An exit of a linked process therefore arrives at
  `c:GenServer.handle_info/2` as `{:EXIT, pid, reason}`. Where the module defines no
  `handle_info/2`, such an exit does what it does without trapping: `:normal` nothing, any other
  reason stops the server with that reason.

  The server itself writes, so that what is written is one consistent state; it answers nothing
  meanwhile. That takes the encoding of the state, two syncs of the file system (some milliseconds),
  and the writing.

  ## What is in the directory

  A checkpoint is one file, `00000000000000000042.checkpoint`, with a version, its number, its
  length and a checksum before the state. It is written under another name, synced, renamed, and
  the directory is synced. So what has a checkpoint's name is whole, unless the disk has damaged
  it. The two newest that are whole are kept.

  A checkpoint that is damaged is reported by an event and a warning, and the one before it is used;
  where there is none, `c:initial_state/1`. Damaged ones are removed after the next checkpoint
  has been written. One that could not be read (a permission, a version of the format from the
  future) is reported likewise but never removed.

  The directory belongs to one server. Another of the same node is refused, by any path and also
  through a symlink. The file `lock` keeps other VMs out while its VM runs. Whether that VM runs is
  known on Linux, within one container. Elsewhere the newest server has the directory, and an
  older one writes no more: `checkpoint/2` returns `{:error, :in_use}`. A server that was killed
  while its VM lives on leaves its lock; remove the file to give the directory to another VM.

  A directory that is made for the server has mode 0700, files have 0600. A directory or a
  checkpoint that is removed is made again when the next one is due, and at the server's end.

  Every term is restored, with the usual meaning. A pid, reference or port belongs to the node
  that wrote it. A function works if its module still exists in the same version, and raises
  otherwise. Only the node may have write access to the directory: a checkpoint is decoded as the
  node's own data.

  ## Telemetry events

  | event | measurements | metadata |
  |---|---|---|
  | `[:foundation, :state, :restore]` | `:duration` (native unit) | `:module`, `:path` of the checkpoint, `nil` for `c:initial_state/1` |
  | `[:foundation, :state, :checkpoint]` | `:duration` (native unit), `:bytes` | `:module`, `:path` |
  | `[:foundation, :state, :checkpoint_failed]` | `:count` (1) | `:module`, `:path` of the directory, `:reason` |
  | `[:foundation, :state, :corrupt]` | `:count` (1) | `:path`, `:reason` |

  A `:reason` of `:corrupt` is `:not_a_checkpoint`, `:wrong_length`, `:wrong_checksum`,
  `:misplaced` (the number in the file is not that of its name), `:undecodable`,
  `{:unsupported_version, version}`, or a file system error such as `:eacces`.

  `:sys.get_state/1` shows the server's own structure, with yours under `:state`;
  `:sys.get_status/1` and crash reports show yours.
  """

  @typedoc "What a checkpoint is asked of: a pid or a name, as in `t:GenServer.server/0`."
  @type server :: GenServer.server()

  @doc """
  Returns the initial state when no checkpoint can be restored. It gets the options of
  `start_link/1`.
  """
  @doc since: "0.1.0"
  @callback initial_state(options :: keyword) :: state :: term

  @doc """
  Writes a checkpoint of the server's state as it is when the request is handled, changed or not.
  When this has returned `:ok` the checkpoint survives a loss of power.

  Returns `{:error, posix}` if it cannot be written, such as `{:error, :enospc}`, and
  `{:error, :in_use}` if another server has taken the directory. The server goes on. Exits as
  `GenServer.call/3` does if the server is not there. Costs a write of the whole state and two
  syncs.

      iex> defmodule Docs.Visits do
      ...>   use Foundation.StateManager, checkpoint_interval: :infinity
      ...>   @impl Foundation.StateManager
      ...>   def initial_state(_options), do: 0
      ...>   @impl GenServer
      ...>   def handle_call(:visit, _from, visits), do: {:reply, visits + 1, visits + 1}
      ...> end
      iex> directory = Path.join(System.tmp_dir!(), Foundation.RequestContext.new_request_id())
      iex> {:ok, server} = Docs.Visits.start_link(checkpoint_dir: directory)
      iex> GenServer.call(server, :visit)
      1
      iex> Foundation.StateManager.checkpoint(server)
      :ok
      iex> GenServer.stop(server)
      iex> {:ok, server} = Docs.Visits.start_link(checkpoint_dir: directory)
      iex> GenServer.call(server, :visit)
      2
      iex> GenServer.stop(server)
      iex> {:ok, _files} = File.rm_rf(directory)
  """
  @doc since: "0.1.0"
  @spec checkpoint(server, timeout) :: :ok | {:error, :in_use | File.posix()}
  def checkpoint(server, timeout \\ :infinity) do
    Options.value!(timeout, Options.time(0), "the timeout of checkpoint/2")
    GenServer.call(server, Server.request(), timeout)
  end

  @doc """
  Starts a server of `module`, linked to the caller: what the `start_link/1` of a module that uses
  this one calls. `defaults` are the options of its `use`.

  Returns what `GenServer.start_link/3` returns, or `{:error, {:checkpoint_dir, path, reason}}`.
  The reason is a posix error if the directory cannot be made or written. It is `:in_use` if
  another server has the directory; one of this node that is just ending is waited for, up to a
  second. Raises `ArgumentError` if an option is missing or wrong. **Cost:** reading the newest
  checkpoint.

      iex> defmodule Docs.Counter do
      ...>   use Foundation.StateManager
      ...>   @impl Foundation.StateManager
      ...>   def initial_state(_options), do: 0
      ...> end
      iex> directory = Path.join(System.tmp_dir!(), Foundation.RequestContext.new_request_id())
      iex> options = [checkpoint_dir: directory]
      iex> {:ok, server} = Foundation.StateManager.start_link(Docs.Counter, options)
      iex> server == Process.whereis(Docs.Counter)
      true
      iex> GenServer.stop(server)
      iex> {:ok, _files} = File.rm_rf(directory)
  """
  @doc since: "0.1.0"
  @spec start_link(module, keyword, keyword) :: GenServer.on_start()
  def start_link(module, options, defaults \\ []) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of #{inspect(module)} to be a keyword list, " <>
              "got: #{inspect(options)}"
    end

    own =
      defaults
      |> Keyword.merge(Keyword.take(options, @own))
      |> validate!("the options of #{inspect(module)}")

    unless own[:checkpoint_dir] do
      raise ArgumentError,
            "expected :checkpoint_dir of the options of #{inspect(module)} to be a string, got: nil"
    end

    server_options =
      options
      |> Keyword.take([:name, :debug, :hibernate_after, :spawn_opt, :timeout])
      |> Keyword.put_new(:name, module)
      |> Enum.reject(&(&1 == {:name, nil}))

    argument = {module, own[:checkpoint_dir], own[:checkpoint_interval], options}
    GenServer.start_link(Server, argument, server_options)
  end

  @doc false
  # The options of `use`: ours, and those of the child specification.
  def split!(module, options) do
    {own, specification} = Keyword.split(options, @own)
    own |> Keyword.take(@own) |> validate!("`use Foundation.StateManager` in #{inspect(module)}")
    {own, Keyword.put_new(specification, :shutdown, 30_000)}
  end

  defp validate!(options, place), do: Options.validate!(options, @schema, place)

  @doc false
  defmacro __using__(options) do
    quote location: :keep do
      {own, specification} = Foundation.StateManager.split!(__MODULE__, unquote(options))
      @foundation_state_options own

      @behaviour Foundation.StateManager
      # Before GenServer's own, which wants to see an init/1.
      @before_compile Foundation.StateManager
      use GenServer, specification

      @doc "Starts the server; see `Foundation.StateManager` for its options."
      def start_link(options \\ []) do
        Foundation.StateManager.start_link(__MODULE__, options, @foundation_state_options)
      end

      if not Keyword.has_key?(specification, :id) do
        def child_spec(options) do
          specification = super(options)

          if Keyword.keyword?(options) and options[:name] != nil,
            do: %{specification | id: options[:name]},
            else: specification
        end
      end

      def handle_info(message, state) do
        Foundation.StateManager.Server.default_handle_info(__MODULE__, message, state)
      end

      defoverridable start_link: 0, start_link: 1, child_spec: 1, handle_info: 2
    end
  end

  @doc false
  defmacro __before_compile__(environment) do
    if Module.defines?(environment.module, {:init, 1}) do
      raise CompileError,
        file: environment.file,
        line: environment.line,
        description:
          "expected #{inspect(environment.module)} to define initial_state/1 and no init/1: " <>
            "Foundation.StateManager restores the state before the server starts"
    end

    quote do
      # As for a plain GenServer, without checkpoints.
      @doc false
      def init(options), do: {:ok, initial_state(options)}
    end
  end
end
