"""With one process every exchange between ranks is a no-op of the same meaning."""

import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.world import World


def test_alone_every_exchange_gives_its_own_value():
    with World.from_env() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert [one(lambda: "plan") for one in (world.from_main, world.once_a_node, world.everywhere)] == ["plan"] * 3
        assert world.gather("summary") == ["summary"]
        assert [world.count(3), world.count(0), world.count(2)] == [3, 3, 5]


def test_alone_a_users_mistake_is_raised():
    def fail():
        raise UserError("no such file")

    for exchange in (World().from_main, World().once_a_node, World().everywhere):
        with pytest.raises(UserError, match="no such file"):
            exchange(fail)
