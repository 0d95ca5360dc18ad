defmodule Foundation.Telemetry.Span.Fallback do
  @moduledoc false
  # Who keeps a process's spans: the engine that runs, or, while an application is being
  # migrated, the process dictionary.

  alias Foundation.Telemetry.Legacy
  alias Foundation.Telemetry.Span.Backends

  @spec backend() :: module
  def backend do
    cond do
      Legacy.on?() -> Backends.ProcessDictionary
      Backends.Native.exists?() -> Backends.Native
      true -> Backends.ETS
    end
  end
end
