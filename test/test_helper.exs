# The default of 100 ms is what a busy machine takes now and then.
ExUnit.start(assert_receive_timeout: 5_000)
