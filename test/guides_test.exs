defmodule Foundation.GuidesTest do
  # Not async: the examples register names and set the log's level.
  use Foundation.Case, async: false

  @moduletag :capture_log

  setup do
    level = Logger.level()
    on_exit(fn -> Logger.configure(level: level) end)
  end

  for guide <- ["registry", "getting_started"] do
    @external_resource "guides/#{guide}.md"

    test "the examples of guides/#{guide}.md hold, one after the other" do
      blocks =
        ~r/^```elixir\n(.*?)^```/ms
        |> Regex.scan(File.read!("guides/#{unquote(guide)}.md"), capture: :all_but_first)
        |> List.flatten()

      assert length(blocks) >= 5
      Code.eval_string(Enum.join(blocks, "\n"))
    end
  end
end
