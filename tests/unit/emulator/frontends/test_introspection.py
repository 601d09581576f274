"""The answers of the gRPC health service, without a server."""

import asyncio

from cloudtasks_nb.emulator.frontends.grpc import HEALTH, Health


async def test_a_stop_right_after_the_first_answer() -> None:
    """A watch tells of a stop that came while its first answer was sent."""
    stop = asyncio.Event()
    watch = Health(["a.Service"], stop).handlers()[f"/{HEALTH}/Watch"].unary_stream(b"\x0a\x09a.Service", None)
    assert await anext(watch) == b"\x08\x01"  # it serves
    stop.set()
    assert [answer async for answer in watch] == [b"\x08\x02"]  # it does not
