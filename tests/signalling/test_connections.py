"""States of real connections, reading their tracks, and tasks that nothing waits for."""

import asyncio

import pytest
from aiortc import RTCPeerConnection

from receiver.signalling.connections import (
    ConnectionState,
    packets_received,
    read_to_the_end,
    receiver_of,
)
from receiver.waiting import BackgroundTasks
from tests.calls.peer import HERE, Tone


async def connect(sending: RTCPeerConnection, receiving: RTCPeerConnection) -> None:
    await sending.setLocalDescription(await sending.createOffer())
    await receiving.setRemoteDescription(sending.localDescription)
    await receiving.setLocalDescription(await receiving.createAnswer())
    await sending.setRemoteDescription(receiving.localDescription)


async def test_a_connection_is_followed_from_its_start_to_its_end():
    sending, receiving = RTCPeerConnection(HERE), RTCPeerConnection(HERE)
    tone, tracks, heard = Tone(), [], []
    sending.addTrack(tone)
    receiving.on("track", tracks.append)
    state = ConnectionState(receiving)
    assert not state.connected.is_set()
    await connect(sending, receiving)
    assert await state.is_established(20)
    assert ConnectionState(receiving).connected.is_set()  # also if it is followed only now
    (track,) = tracks
    assert receiver_of(track, receiving).track is track
    with pytest.raises(ValueError, match="not enough values"):
        receiver_of(tone, receiving)
    reading = asyncio.ensure_future(read_to_the_end(track, heard.append))
    while len(heard) < 3:
        await asyncio.sleep(0.01)
    assert await packets_received(receiving) >= 3
    await sending.close()
    await receiving.close()
    await asyncio.wait_for(reading, 5)
    assert state.gone.is_set()
    assert not await state.is_established(20)
    assert heard[0].sample_rate == 48000


async def test_a_connection_without_a_peer_is_not_established():
    connection = RTCPeerConnection(HERE)
    assert not await ConnectionState(connection).is_established(0.05)
    await connection.close()
    assert ConnectionState(connection).gone.is_set()


async def test_background_tasks_are_kept_until_they_end():
    tasks, done = BackgroundTasks(), []

    async def work(number: int) -> None:
        await asyncio.sleep(0 if number < 2 else 60)
        done.append(number)

    for number in range(4):
        tasks.start(work(number))
    assert len(list(tasks)) == 4
    while len(done) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(list(tasks)) == 2
    tasks.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert list(tasks) == []
    assert done == [0, 1]
