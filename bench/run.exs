# Measures Foundation against what it replaces: bench/run.exs [OPTION ...] [ROW ...], see --help.
#
# Every figure is a ratio of two medians in one run: ours and theirs take turns, in one
# process on one scheduler, over at least 20 rounds; each result is checked before it is
# timed, and what the loop costs is subtracted. `spread` is the ratio of the tenth and
# of the ninetieth of a hundred rounds.
#
# A new row goes into the file of its area, bench/AREA.exs: a module whose `rows/0` returns a list
# of `Bench.Row`, named among the areas of bench/support/command.exs. See
# bench/support/bench.exs for what rows are made of.

Code.require_file("support/command.exs", __DIR__)
Bench.Command.main(System.argv())
