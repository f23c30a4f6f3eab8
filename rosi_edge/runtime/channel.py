"""Objects across a pipe between two processes, large arrays beside them.

``Connection.send`` packs an array into one string of bytes, and ``recv`` unpacks it again: three copies of
it in memory, and a process in which no other thread has a turn while hundreds of megabytes are moved. Here
what an object says of its buffers (pickle protocol 5, PEP 574) travels first, and the buffers follow in
pieces, straight to where they stay.
"""

from __future__ import annotations

import pickle
import struct
from multiprocessing.connection import Connection

import numpy as np

_PIECE = 1 << 20
"""Bytes sent and received at once."""

_LEAST_BUFFER = 1 << 16
"""Smaller buffers are no gain: they stay in the object's own bytes."""


def send(connection: Connection, value: object) -> None:
    """Send a picklable object; the other side calls ``receive``.

    Raises:
        BrokenPipeError, ConnectionResetError: the other side is gone.
    """
    buffers: list[memoryview] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= _LEAST_BUFFER:
            buffers.append(view)
            return False
        return True

    packed = pickle.dumps(value, protocol=5, buffer_callback=aside)
    connection.send_bytes(struct.pack(f"<{len(buffers)}Q", *(view.nbytes for view in buffers)))
    connection.send_bytes(packed)
    for view in buffers:
        for start in range(0, view.nbytes, _PIECE):
            connection.send_bytes(view[start : start + _PIECE])


def receive(connection: Connection) -> object:
    """Wait for the next object; its arrays can be written to.

    Raises:
        EOFError: the other side is gone, perhaps in the middle of an object.
    """
    try:
        header = connection.recv_bytes()
        packed = connection.recv_bytes()
        buffers = []
        for (size,) in struct.iter_unpack("<Q", header):
            # Not a bytearray: filling hundreds of megabytes with zeros first is another such moment.
            buffer = np.empty(size, dtype=np.uint8)
            for start in range(0, size, _PIECE):
                connection.recv_bytes_into(buffer.data, start)
            buffers.append(buffer)
    except OSError as error:
        raise EOFError("the other side is gone") from error
    return pickle.loads(packed, buffers=buffers)
