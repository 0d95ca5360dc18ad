defmodule Foundation.Telemetry.Span.Fallback do
  @moduledoc false
  # Who keeps a process's spans when the native engine does not: the ETS engine, or, while an
  # application is being migrated, the process dictionary.

  alias Foundation.Telemetry.Legacy
  alias Foundation.Telemetry.Span.Backends

  @spec backend() :: module
  def backend do
    if Legacy.on?(), do: Backends.ProcessDictionary, else: Backends.ETS
  end
end
