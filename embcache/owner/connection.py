"""One link, the owner's side: receives frames, sends answers, and ends when its reader does not take them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from embcache.errors import Overloaded
from embcache.local import frames
from embcache.owner.threads import log

# Calls of one link that wait for an answer; those beyond are answered Overloaded.
MAX_CALLS = 4096
# Bytes of answers that the reader has not taken: above the first no more calls are read, above the second it is closed.
PAUSE_BYTES = 8 << 20
MAX_UNSENT_BYTES = 2 << 30
STALL_S = 10.0


class Connection(asyncio.BufferedProtocol):
    """A link. `gone` is done when it has ended and `on_close` was called."""

    def __init__(self, begin: Callable[[Connection, frames.Frame], None], on_close: Callable[[], None]) -> None:
        """`begin(link, frame)` starts a call, which ends in one `answer`."""
        self._begin = begin
        self._on_close = on_close
        self._reader = frames.FrameReader(frames.MAX_REQUEST_META, frames.MAX_REQUEST_PAYLOAD)
        self._transport: asyncio.Transport | None = None
        self._waiting = 0
        self._given = 0  # bytes of answers so far
        self._stall: asyncio.TimerHandle | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, pieces: Sequence[memoryview]) -> None:
        """Send the answer of one call; the arrays must stay as they are. Nothing happens when the link has ended."""
        self._waiting -= 1
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort("its reader does not take the answers")
            return
        self._given += sum(piece.nbytes for piece in pieces)
        self._transport.writelines(pieces)

    def close(self) -> None:
        """End the link once what was answered is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End the link now."""
        if self._transport is not None and not self.gone.done():
            log.warning("a link was closed: %s", reason)
            self._transport.abort()

    @property
    def taken(self) -> int:
        """Bytes of answers that the socket took so far."""
        return self._given - (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    # --- what the loop calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are such, though not by inheritance
        self._transport.set_write_buffer_limits(high=PAUSE_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._reader.received(nbytes):
                self._waiting += 1
                if self._waiting > MAX_CALLS:
                    error = Overloaded(f"{MAX_CALLS} calls of this link wait already", {"retry_after_ms": 50})
                    self.answer(frames.encode(frame.call, {"error": error.to_dict()}))
                else:
                    self._begin(self, frame)
        except frames.FrameError as error:
            self.abort(str(error))

    def pause_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._watch()

    def resume_writing(self) -> None:
        self._unwatch()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        if not self.gone.done():
            self._on_close()
            self.gone.set_result(None)

    def _watch(self) -> None:
        self._stall = asyncio.get_running_loop().call_later(STALL_S, self.check_stall, self.taken)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()

    def check_stall(self, taken: int) -> None:
        """Ends a link whose reader took nothing since the last look."""
        if self.taken > taken:
            self._watch()
        else:
            self.abort(f"its reader took nothing for {STALL_S:g} s")
