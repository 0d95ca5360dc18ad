import Config

# Where the event log of the agents' memories is.
config :crew, dir: Path.expand("../memory", __DIR__)

# The model that agents think with: a module with `complete/1` (`Crew.LLM`).
config :crew, llm: Crew.LLM.Fake

# On several nodes, one registry of agents for all of them:
#
#     config :foundation, agent_registry: [cluster: [engine: :pg]]

if config_env() == :test do
  config :crew, dir: Path.join(System.tmp_dir!(), "crew_#{System.os_time()}")
end
