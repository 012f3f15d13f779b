"""The split of work is a pure function, and everything else is a no-op for one process."""

import pytest

from plgen_ddp.errors import UserError
from plgen_ddp.world import World, share_of


@pytest.mark.parametrize("size", range(1, 9))
def test_shares_partition_the_work_exactly(size):
    for count in range(40):
        shares = [share_of(rank, size, count) for rank in range(size)]
        assert sorted(position for share in shares for position in share) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_every_exchange_gives_its_own_value():
    with World.from_env() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.from_main(lambda: "plan") == world.once_a_node(lambda: "plan") == "plan"
        assert world.gather("summary") == ["summary"]
        assert [world.count(3), world.count(0), world.count(2)] == [3, 3, 5]


def test_alone_a_users_mistake_is_raised():
    def fail():
        raise UserError("no such file")

    for exchange in (World().from_main, World().once_a_node):
        with pytest.raises(UserError, match="no such file"):
            exchange(fail)
