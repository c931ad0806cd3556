"""How a child process talks with its parent."""

import asyncio
import json
import sys
from typing import Any


def say(**message: Any) -> None:
    """A line for the parent."""
    print(json.dumps(message), flush=True)


async def parent_speaks() -> None:
    """Waits for the parent's next line, or for its end."""
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, spoken.set)
    try:
        await spoken.wait()
    finally:
        loop.remove_reader(sys.stdin)
    sys.stdin.readline()
