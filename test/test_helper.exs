# A busy machine can pause a process for seconds. A longer timeout only delays a true failure.
ExUnit.start(assert_receive_timeout: 30_000, timeout: 180_000)
