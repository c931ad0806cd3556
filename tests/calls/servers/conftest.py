"""Fixtures of all tests with hostile servers."""

import asyncio
import gc
import ssl

import pytest

from tests.calls.peer import self_signed


@pytest.fixture
def tls(tmp_path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context."""
    cert, key = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


@pytest.fixture(autouse=True)
async def nothing_is_left_in_the_loop(caplog):
    """No task fails unseen, and no traceback is logged."""
    failed: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert not failed
    assert not [record for record in caplog.records if record.exc_info]
