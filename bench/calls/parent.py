"""Messages between a child process and its parent."""

import asyncio
import json
import sys
from typing import Any


def say(**message: Any) -> None:
    """Sends the parent a message, a line of JSON."""
    print(json.dumps(message), flush=True)


async def parent_speaks() -> None:
    """Waits for the parent's next line, or for the end of the parent."""
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, spoken.set)
    try:
        await spoken.wait()
    finally:
        loop.remove_reader(sys.stdin)
    sys.stdin.readline()
