defmodule Foundation.Owner do
  @moduledoc false
  # The process that stands for a table or an instance in its supervision tree and bears its name.
  # An orderly stop closes what it owns. A crash leaves that for the successor to adopt.
  #
  # A callback module says what is owned.

  use GenServer

  alias Foundation.{ExitReason, Predecessor}

  @type options :: %{:name => atom, optional(atom) => term}
  @type state :: term

  @doc "Opens what is owned, or adopts it. Runs in the owner, before that has its name."
  @callback open(options) :: {:ok, state} | {:error, term}

  @doc """
  Returns whether `pid` owns what has this name. Another process may have taken the name.
  """
  @callback owner?(name :: atom, pid) :: boolean

  @doc "Destroys what is owned, at an orderly stop."
  @callback close(state) :: term

  @doc "Handles a message of the area's own."
  @callback handle_message(message :: term, state) :: state

  @doc "Handles a request of the area's own; its callers decide what they wait for."
  @callback handle_request(request :: term, GenServer.from(), state) ::
              {:reply, term, state} | {:noreply, state}

  # GenServer would register the name before init/1, and a caller that finds it then would find
  # no table, or one that belongs to the predecessor. So the name comes last here. As there, it is
  # looked for before a process is started, whose exit a caller that traps exits would hear of.
  @spec start_link(module, options) :: GenServer.on_start()
  def start_link(module, %{name: name} = options) do
    with :ok <- check_free(module, name),
         do: :proc_lib.start_link(__MODULE__, :start, [module, options, self()])
  end

  @doc false
  def start(module, %{name: name} = options, parent) do
    # So that terminate/2 runs when the supervisor says :shutdown.
    Process.flag(:trap_exit, true)

    with {:ok, state} <- module.open(options),
         :ok <- claim(module, name) do
      :proc_lib.init_ack({:ok, self()})
      owner = %{module: module, parent: parent, state: state}
      :gen_server.enter_loop(__MODULE__, [], owner, {:local, name})
    else
      {:error, _reason} = error -> fail(error)
    end
  end

  # From OTP 26 on a start can fail without its caller hearing of an exit, as GenServer's do.
  if function_exported?(:proc_lib, :init_fail, 2) do
    defp fail(error), do: :proc_lib.init_fail(error, {:exit, :normal})
  else
    defp fail(error), do: :proc_lib.init_ack(error)
  end

  # Only `start/3` starts an owner.
  @impl true
  def init(_argument), do: :ignore

  # The VM's error for a process without a name; Elixir's Registry returns the same.
  defp check_free(_module, :undefined), do: {:error, {:already_started, :undefined}}

  defp check_free(module, name) do
    name_holder = Process.whereis(name)

    cond do
      name_holder == nil -> :ok
      module.owner?(name, name_holder) and leaving?(name_holder) -> check_free(module, name)
      true -> {:error, {:already_started, name_holder}}
    end
  end

  # The owner that a killed supervisor left behind (`Foundation.Predecessor`). If this start failed,
  # the start of the supervisor's successor would fail too. It would then stop its earlier children
  # in order, that is, other owners with their tables.
  defp leaving?(owner) do
    case parent(owner) do
      {parent, linked?} ->
        cond do
          Process.alive?(parent) -> false
          linked? -> Predecessor.gone?(owner)
          # It was unlinked, and stays; or the exit is the next message that it gets.
          true -> parent(owner) == :gone
        end

      :busy ->
        false

      :gone ->
        true
    end
  end

  defp parent(owner) do
    GenServer.call(owner, :parent)
  catch
    :exit, {:timeout, {GenServer, :call, _arguments}} -> :busy
    :exit, {_reason, {GenServer, :call, _arguments}} -> :gone
  end

  # Taken meanwhile by somebody who is no owner, or not yet let go by a predecessor that is
  # exiting: the table has no owner until the next start. Or given back meanwhile: then again.
  defp claim(module, name) do
    # `Process.register/2` refuses nil, true and false.
    true = :erlang.register(name, self())
    :ok
  rescue
    # Of a name that is an atom and a process that lives and has none, it means that it is taken.
    ArgumentError -> with :ok <- check_free(module, name), do: claim(module, name)
  end

  @impl true
  # An owner has no children, but callers of Supervisor.which_children/1 and count_children/1 are
  # used to a registry that answers.
  def handle_call(:which_children, _from, owner), do: {:reply, [], owner}

  def handle_call(:count_children, _from, owner),
    do: {:reply, [specs: 0, active: 0, supervisors: 0, workers: 0], owner}

  def handle_call(:parent, _from, %{parent: parent} = owner) do
    {:links, links} = Process.info(self(), :links)
    {:reply, {parent, parent in links}, owner}
  end

  # The requests of `Supervisor` about one child, by its id: the standard library's registry is a
  # supervisor.
  def handle_call({request, _id}, _from, owner)
      when request in [
             :terminate_child,
             :restart_child,
             :delete_child,
             :get_childspec,
             :which_child
           ],
      do: {:reply, {:error, :not_found}, owner}

  def handle_call(request, from, %{module: module} = owner) do
    case module.handle_request(request, from, owner.state) do
      {:reply, reply, state} -> {:reply, reply, %{owner | state: state}}
      {:noreply, state} -> {:noreply, %{owner | state: state}}
    end
  end

  @impl true
  def handle_cast(_unknown, owner), do: {:noreply, owner}

  @impl true
  # Linked to nobody but the parent, whose exit never comes here: somebody sent this signal,
  # and an owner that did not trap exits would obey it.
  def handle_info({:EXIT, _from, :normal}, owner), do: {:noreply, owner}
  def handle_info({:EXIT, _from, reason}, owner), do: {:stop, reason, owner}

  def handle_info(message, %{module: module} = owner),
    do: {:noreply, %{owner | state: module.handle_message(message, owner.state)}}

  @impl true
  def terminate(reason, owner) do
    if ExitReason.orderly?(reason), do: owner.module.close(owner.state)
  end
end
