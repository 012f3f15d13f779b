"""Which rank this process is, and everything that ranks exchange.

This file is the only importer of torch.distributed, and reads torchrun's environment; beside it only `starting.py`
reads the rank there, before torch is imported. The group is Gloo and carries small Python objects: a plan from rank 0,
a summary from each rank. Everything large goes through files, except the gradients of a training, which NCCL carries on
GPUs. In a single process every exchange returns its own value, so there is one code path.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from plgen_ddp.console import identify_process
from plgen_ddp.errors import PeerError, UserError, one_line, user_message
from plgen_ddp.network import interface_towards, name_is_loopback
from plgen_ddp.stopping import watch_for_stops

T = TypeVar("T")

# Ranks wait for each other only before the work and after it. torchrun ends the job when a rank dies, so a long limit
# costs nothing. A short one would kill a job whose last rank has the slowest disk.
_TIMEOUT = timedelta(hours=12)
# torchrun starts ranks when all nodes are there. A rank that finds no peers is an orphan of a torchrun that was killed.
_JOIN_TIMEOUT = timedelta(minutes=1)


@dataclass(frozen=True)
class World:
    """One rank's view of the group. Use it as a context manager, or call `close`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    under_torchrun: bool = False
    _store: Any = field(default_factory=dist.HashStore)
    _limit: timedelta = _TIMEOUT

    @classmethod
    def from_env(cls, *, gradients: bool = False, limit: timedelta = _TIMEOUT) -> "World":
        """Joins the group that torchrun describes in the environment. Without torchrun, a group of one.

        Args:
            gradients: the group also averages gradients (DistributedDataParallel), on CUDA devices through NCCL.
            limit: how long a rank waits for another before the work and after it.

        Raises:
            UserError: an incomplete environment, or no peers.
        """
        error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        identify_process(int(os.environ.get("RANK", "0")), Path(error_file) if error_file else None)
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        watch_for_stops(parent=under_torchrun)
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls(under_torchrun=under_torchrun)
        _choose_interface()
        try:
            store, rank, size = next(rendezvous("env://", timeout=_JOIN_TIMEOUT))
        except ValueError as error:
            raise UserError(
                f"WORLD_SIZE is set, and the rest of what torchrun sets is not ({one_line(error)}); start this with "
                "torchrun, or unset WORLD_SIZE"
            ) from None
        except dist.DistError as error:
            raise UserError(f"found no other rank: {one_line(error)}; was torchrun killed?") from None
        # torchrun keeps its store when it starts ranks again, with the addresses of those that have ended.
        store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        store.set_timeout(_JOIN_TIMEOUT)
        group_store = dist.PrefixStore("group", store)
        nccl = gradients and torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        try:
            dist.init_process_group(backend, store=group_store, rank=rank, world_size=size, timeout=limit)
        except RuntimeError as error:
            raise UserError(f"cannot connect to the other ranks: {one_line(error)}; start all of them again") from None
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return cls(rank, size, local_rank, under_torchrun, dist.PrefixStore("counter", store), limit)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints for all ranks and writes what they share."""
        return self.rank == 0

    def close(self) -> None:
        """Leaves the group, so that no rank waits for what rank 0 does afterwards."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def from_main(self, work: Callable[[], T]) -> T:
        """The result of `work`, which rank 0 computes, on every rank. A `UserError` in it is raised on every rank."""
        outcome = _attempt(work) if self.is_main else None
        if self.size > 1:
            box = [outcome]
            with self._peers():
                dist.broadcast_object_list(box, src=0)
            outcome = box[0]
        assert outcome is not None
        self._raise(outcome.error)
        return outcome.value

    def once_a_node(self, work: Callable[[], T]) -> T:
        """Every rank's own result of `work`, which one rank of each node runs before the others: for downloads.

        A `UserError` on any rank is raised on every rank.
        """
        outcome = _attempt(work) if self.local_rank == 0 else None
        self._raise_first(outcome)
        outcome = outcome or _attempt(work)
        self._raise_first(outcome)
        return outcome.value

    def everywhere(self, work: Callable[[], T]) -> T:
        """Every rank's own result of `work`. A `UserError` on any rank is raised on every rank."""
        outcome = _attempt(work)
        self._raise_first(outcome)
        return outcome.value

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on rank 0; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._peers():
            dist.gather_object(value, values if self.is_main else None, dst=0)
        return values if self.is_main else []

    def count(self, amount: int, what: str = "images") -> int:
        """Adds to a counter that all ranks share, without waiting for any of them; returns its new value.

        Args:
            what: name of the counter. It starts at 0, also after torchrun has started the ranks again.

        Raises:
            PeerError: the process that holds the counter, torchrun itself or its first node's, has ended.
        """
        with self._peers():
            return self._store.add(what, amount)

    def _raise_first(self, outcome: "_Outcome | None") -> None:
        """Raises the first error of any rank on every rank. Only messages travel: not every result can be pickled."""
        errors: list[Any] = [outcome.error if outcome else None] * self.size
        if self.size > 1:
            with self._peers():
                dist.all_gather_object(errors, errors[0])
        for error in errors:
            self._raise(error)

    @contextlib.contextmanager
    def _peers(self) -> Iterator[None]:
        """Wraps an exchange. A rank that has ended has printed why, so the others need no traceback."""
        try:
            yield
        except RuntimeError as error:
            if "timed out" in str(error).lower():
                raise UserError(
                    f"another rank did not come within {self._limit}: {one_line(error)}; run again"
                ) from None
            raise PeerError(f"another rank has ended: {one_line(error)}") from None

    def _raise(self, error: str | None) -> None:
        if error is not None:
            raise UserError(error) if self.is_main else PeerError(error)


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: str | None = None


def _choose_interface() -> None:
    """Names the network interface for Gloo where there are several nodes and the machine's name is a loopback address.

    Gloo would take that address, and give it to the other nodes.
    """
    several = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]) != os.environ["WORLD_SIZE"]
    if several and "GLOO_SOCKET_IFNAME" not in os.environ and name_is_loopback():
        name = interface_towards(os.environ.get("MASTER_ADDR", ""))
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def _attempt(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(value=work())
    except (UserError, OSError) as error:
        if (mistake := user_message(error)) is None:
            raise
        return _Outcome(error=mistake)
