defmodule Foundation.DocsLog do
  @moduledoc """
  A function that the examples of `Foundation.EventLog` call.
  """

  @doc "Starts an empty event log for the test, and returns its name."
  @spec start_log() :: atom
  def start_log do
    id = Foundation.RequestContext.new_request_id()
    name = :"log_#{id}"
    dir = Path.join(System.tmp_dir!(), "foundation_docs_" <> id)
    ExUnit.Callbacks.on_exit({:docs, name}, fn -> File.rm_rf!(dir) end)
    ExUnit.Callbacks.start_supervised!({Foundation.EventLog, name: name, dir: dir})
    name
  end
end
