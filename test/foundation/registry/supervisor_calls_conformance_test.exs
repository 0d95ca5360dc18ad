import Foundation.Conformance.Registry

conformance "SupervisorCalls", variants: [[keys: :unique], [keys: :duplicate]] do
  test "supervisor calls for an unknown child return not_found", %{
    registry: registry,
    owner: owner
  } do
    {:ok, _owner} = Registry.register(registry, :key, 1)

    assert Supervisor.terminate_child(registry, :nobody) == {:error, :not_found}
    assert Supervisor.restart_child(registry, :nobody) == {:error, :not_found}
    assert Supervisor.delete_child(registry, :nobody) == {:error, :not_found}
    assert :supervisor.get_childspec(registry, :nobody) == {:error, :not_found}

    # From OTP 28 on.
    if function_exported?(:supervisor, :which_child, 2),
      do: assert(apply(:supervisor, :which_child, [registry, :nobody]) == {:error, :not_found})

    assert Process.whereis(registry) == owner
    assert Registry.lookup(registry, :key) == [{self(), 1}]
  end

  test "a registry lists and counts its children", %{registry: registry} do
    assert registry |> Supervisor.which_children() |> is_list()

    assert %{specs: _, active: _, supervisors: _, workers: _} =
             Supervisor.count_children(registry)
  end
end
