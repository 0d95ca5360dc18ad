# Measures Foundation against what it replaces: bench/run.exs [OPTION ...] [ROW ...], see --help.
#
# Every figure is a ratio of two medians from one run. Ours and theirs take turns, in one process on
# one scheduler, over at least 20 rounds. Each result is checked before it is timed, and the cost of
# the loop is subtracted. `spread` is the ratio between the tenth and the ninetieth of a hundred
# rounds.
#
# A new row goes into the file of its area, bench/AREA.exs: a module whose `rows/0` returns a list
# of `Bench.Row`. The list of these modules is in bench/support/command.exs. The parts of a row are
# in bench/support/bench.exs.

Code.require_file("support/command.exs", __DIR__)
Bench.Command.main(System.argv())
