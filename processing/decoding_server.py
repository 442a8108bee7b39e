"""The helper process that decodes video for `decoding_process` and puts the frames into shared memory.

The parent sends lines of JSON with open files attached. During a stream it sends single bytes: "f" means that a slot
of the ring has been read, "s" means stop. Answers are lines of JSON. Frames go into the ring.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import threading
import time
from typing import Any

import numpy as np

from .video_decoding import DamagedVideoError, Decoder, VideoReadError, decode_wanted, last_line, load_decoder

SCRIPT = __file__


class _Server:
    KEPT = 4  # decoders whose index is remembered

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._decoders: dict[str, tuple[Decoder, int | None]] = {}
        self._said = time.monotonic()
        self._commands, self._files = b"", []
        self._ring: mmap.mmap | None = None

    def _send(self, **message: Any) -> None:
        self._said = time.monotonic()
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _progress(self) -> None:
        if time.monotonic() - self._said > 0.5:
            self._send(alive=True)

    def run(self) -> None:
        self._send(ready=True)
        while True:
            command = self._next_command()
            if command is None:
                return
            try:
                if "ring" in command:
                    self._stream(command)
                elif "times" in command:
                    self._send(info={"times": getattr(self._decoder(command), "times", lambda: None)()})
                else:
                    self._send(info=self._decoder(command).probe())
            except VideoReadError as error:
                self._send(error=type(error).__name__, message=last_line(error))
            except (BrokenPipeError, ConnectionError):
                return
            # Decoders raise different exceptions. Their messages go to the parent, which tries the next decoder.
            except Exception as error:
                self._send(refused=last_line(error))
            finally:
                for file in self._files:
                    os.close(file)
                self._files.clear()

    def _next_command(self) -> dict[str, Any] | None:
        while True:
            line, found, rest = self._commands.partition(b"\n")
            if found:
                self._commands = rest
                return json.loads(line.lstrip(b"fs"))  # strips bytes that were sent to a stream that had already ended
            received, files, _, _ = socket.recv_fds(self._channel, 1 << 16, 2)
            if not received:
                return None
            self._commands += received
            self._files += files

    def _decoder(self, command: dict[str, Any]) -> Decoder:
        key = f"{command['decoder']} {command['clip']}"
        if key not in self._decoders:
            while len(self._decoders) >= self.KEPT:
                self._drop(next(iter(self._decoders)))
            file = None if command["path"] else self._files.pop(0)
            try:
                path = command["path"] or f"/dev/fd/{file}"
                self._decoders[key] = load_decoder(command["decoder"], path, self._progress), file
            except BaseException:
                if file is not None:
                    os.close(file)
                raise
        return self._decoders[key][0]

    def _drop(self, key: str) -> None:
        _, file = self._decoders.pop(key)
        if file is not None:
            os.close(file)

    def _stream(self, command: dict[str, Any]) -> None:
        slots, height, width = command["ring"]
        if command["new_ring"]:
            self._ring = mmap.mmap(self._files[-1], command["new_ring"])
        ring = np.frombuffer(self._ring, np.uint8, slots * height * width * 3).reshape(slots, height, width, 3)
        # Reported in batches, because waking the parent for each frame costs more than the copy.
        free, untold, batch = slots, 0, max(1, slots // 4)
        try:
            for number, image in enumerate(decode_wanted(self._decoder(command), command["wanted"])):
                if image.shape != ring.shape[1:]:
                    raise DamagedVideoError(
                        f"a frame has {image.shape[1]}×{image.shape[0]} pixels, not {width}×{height}"
                    )
                ring[number % slots] = image
                free -= 1
                untold += 1
                if untold == batch or not free:
                    self._send(frames=untold)
                    untold = 0
                while not free or select.select([self._channel], [], [], 0)[0]:
                    received = self._channel.recv(4096)
                    if b"s" in received or not received:
                        untold = 0
                        self._send(end=True)
                        return
                    free += len(received)
        finally:
            if untold:
                self._send(frames=untold)
        self._send(end=True)


def serve(channel_number: int) -> None:
    """Runs the helper process until the channel is closed or the parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        # A forked sibling may keep the channel open after the parent has died.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    _Server(socket.socket(fileno=channel_number)).run()
