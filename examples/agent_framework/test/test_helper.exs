ExUnit.start()
# The memories of this run.
ExUnit.after_suite(fn _result -> File.rm_rf!(Application.fetch_env!(:crew, :dir)) end)
