"""What the first of several processes does for all of them."""

import sys
from collections.abc import Callable

from lightning_fabric import Fabric

from dynamicblocks.errors import DynamicBlocksError

FAILURE = 1


def by_the_first(fabric: Fabric, action: Callable[[], object]) -> None:
    """Do something in the first process. If it fails there all processes end, and the first alone says why."""
    failed: DynamicBlocksError | None = None
    if fabric.global_rank == 0:
        try:
            action()
        except DynamicBlocksError as error:
            failed = error
    if fabric.world_size > 1 and fabric.broadcast(failed is not None) and fabric.global_rank:
        sys.exit(FAILURE)
    if failed is not None:
        raise failed
