# A busy machine pauses a process for seconds. A test that waits in vain fails all the same, later.
ExUnit.start(assert_receive_timeout: 30_000)
