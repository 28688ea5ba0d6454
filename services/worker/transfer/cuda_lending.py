"""A GPU's memory lent to other processes of its host, by the CUDA driver's own functions.

The driver, because it is there wherever a GPU is, and because the context is then named: a mapping is opened
in the one of this worker's GPU, never in another of the peer's GPU, which would take half a gigabyte there.
Its copies between two GPUs are made by copy engines: they need no multiprocessor, for which the sessions'
kernels would have to make room.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from ctypes import byref
from typing import Any

import torch

from services.worker.transfer.host_name import on_this_host
from services.worker.transfer.ipc import IpcTransport
from services.worker.transfer.lending import Mapped, Place
from services.worker.transfer.link import Buffer, LinkLost, LinkRefused

logger = logging.getLogger(__name__)

_LIBRARY = "libcuda.so.1"
_HANDLE_BYTES, _PROOF_BYTES, _MOST_HANDLES = 64, 64, 1024
_BUFFER_ID = 7  # CU_POINTER_ATTRIBUTE_BUFFER_ID
_LAZY_PEER_ACCESS = 1
_OWNED = struct.Struct(f"!QQ{_HANDLE_BYTES}s")  # whose a handle is, of how many bytes, and itself

_address, _size = ctypes.c_uint64, ctypes.c_size_t


class _Handle(ctypes.Structure):
    _fields_ = (("data", ctypes.c_ubyte * _HANDLE_BYTES),)


class _Refusal(RuntimeError):
    """What the driver said."""


def cuda_ipc(device: str) -> IpcTransport | None:
    """None: this process can't lend its GPU's memory; why is in the log."""
    try:
        return IpcTransport(CudaLending(torch.device(device)), on_this_host())
    except (OSError, AttributeError, RuntimeError, LinkRefused) as error:
        logger.info("sessions move without CUDA IPC: %s", error)
        return None


class CudaLending:
    """See `Lending`. To make one raises `LinkRefused`, or what loading the driver raises."""

    def __init__(self, device: torch.device) -> None:
        self._device = torch.device("cuda", device.index or 0)  # as tensors on it say it
        self._driver = _Driver(self._device.index)
        self._handles: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.proof = torch.randint(0, 256, (_PROOF_BYTES,), dtype=torch.uint8).to(self._device)
        torch.cuda.current_stream(self._device).synchronize()
        self.places([self.proof])

    def places(self, buffers: Sequence[Buffer]) -> list[Place]:
        found: list[Place] = []
        allocation = start = end = 0
        try:
            with self._driver.on_device():
                for buffer in buffers:
                    address = self._of(buffer)
                    if not start <= address < end:
                        start, size_bytes = self._driver.range_of(address)
                        end = start + size_bytes
                        allocation = self._lent(start, size_bytes)
                    found.append(Place(allocation, address - start, len(buffer)))
        except _Refusal as error:
            raise LinkRefused(
                f"the GPU's memory can't be lent to other processes: {error}; PyTorch's allocator must use"
                " neither expandable_segments nor cudaMallocAsync"
            ) from error
        return found

    def _of(self, buffer: Buffer) -> int:
        if buffer.device != self._device or not len(buffer):
            raise LinkRefused(f"{len(buffer)} bytes on {buffer.device}; what is lent is on {self._device}")
        return int(buffer.data_ptr())

    def _lent(self, start: int, size_bytes: int) -> int:
        """The allocation's number, which no other has or will have in this process."""
        allocation = self._driver.number_of(start)
        with self._lock:
            if allocation not in self._handles:
                while len(self._handles) >= _MOST_HANDLES:
                    del self._handles[next(iter(self._handles))]
                handle = self._driver.handle_of(start)
                self._handles[allocation] = _OWNED.pack(os.getpid(), size_bytes, handle)
        return allocation

    def handle(self, allocation: int) -> bytes:
        with self._lock:
            return self._handles[allocation]

    def map(self, handle: bytes) -> Mapped:
        try:
            pid, size_bytes, opaque = _OWNED.unpack(handle)
            if pid == os.getpid():
                raise LinkRefused("a process can't map its own memory a second time")
            with self._driver.on_device():
                return Mapped(self._driver.map(opaque), size_bytes)
        except (struct.error, _Refusal) as error:
            raise LinkRefused(f"the peer's memory can't be mapped: {error}") from error

    def unmap(self, mapped: Mapped) -> None:
        try:
            with self._driver.on_device():
                self._driver.unmap(mapped.address)
        except _Refusal as error:
            logger.warning("memory of a peer that was mapped could not be let go: %s", error)

    def lane(self) -> _Lane:
        return _Lane(self._driver, self._device)

    def blank(self, length: int) -> Buffer:
        made = torch.zeros(length, dtype=torch.uint8, device=self._device)
        torch.cuda.current_stream(self._device).synchronize()
        return made

    def read(self, buffer: Buffer) -> bytes:
        return bytes(buffer.tolist())


class _Lane:
    """See `Lane`."""

    def __init__(self, driver: _Driver, device: torch.device) -> None:
        self._driver, self._stream = driver, torch.cuda.Stream(device)

    def copy(self, into: Sequence[Buffer], sources: Sequence[int]) -> None:
        stream = self._stream.cuda_stream
        try:
            with self._driver.on_device():
                for buffer, source in zip(into, sources, strict=True):
                    self._driver.copy(buffer.data_ptr(), source, len(buffer), stream)
        except _Refusal as error:
            raise LinkLost(f"the GPU would not copy a peer's memory: {error}") from error

    def idle(self) -> bool:
        try:
            return self._stream.query()
        except RuntimeError as error:
            raise LinkLost(f"the GPU failed while it copied a peer's memory: {error}") from error


class _Driver:
    """The functions of the driver that are used, in the primary context of one device, which is torch's.

    What only tells the device something is called with the interpreter's lock held: to let it go and fetch it
    again would cost more than the call, hundreds of times a transfer, beside threads that are busy.
    """

    def __init__(self, ordinal: int) -> None:
        quick, slow = ctypes.PyDLL(_LIBRARY), ctypes.CDLL(_LIBRARY)
        torch.cuda.current_stream(ordinal).query()  # the driver is initialised, the context is there
        self._push = _function(quick.cuCtxPushCurrent_v2, ctypes.c_void_p)
        self._pop = _function(quick.cuCtxPopCurrent_v2, ctypes.c_void_p)
        self._range = _function(quick.cuMemGetAddressRange_v2, *[ctypes.c_void_p] * 2, _address)
        self._attribute = _function(quick.cuPointerGetAttribute, ctypes.c_void_p, ctypes.c_int, _address)
        self._copy = _function(quick.cuMemcpyAsync, _address, _address, _size, ctypes.c_void_p)
        self._handle = _function(slow.cuIpcGetMemHandle, ctypes.c_void_p, _address)
        self._open = _function(slow.cuIpcOpenMemHandle_v2, ctypes.c_void_p, _Handle, ctypes.c_uint)
        self._close = _function(slow.cuIpcCloseMemHandle, _address)
        self._error = _function(quick.cuGetErrorString, ctypes.c_int, ctypes.c_void_p)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._check(_function(quick.cuDeviceGet, ctypes.c_void_p, ctypes.c_int)(byref(device), ordinal))
        retain = _function(slow.cuDevicePrimaryCtxRetain, ctypes.c_void_p, ctypes.c_int)
        self._check(retain(byref(context), device.value))
        self._context = context

    @contextlib.contextmanager
    def on_device(self) -> Iterator[None]:
        """A transfer thread has no context of its own. Raises what its calls raise: `_Refusal`."""
        self._check(self._push(self._context))
        try:
            yield
        finally:
            self._pop(byref(ctypes.c_void_p()))

    def range_of(self, address: int) -> tuple[int, int]:
        """Where the allocation begins, and its bytes."""
        start, size_bytes = _address(), _size()
        self._check(self._range(byref(start), byref(size_bytes), address))
        return start.value, size_bytes.value

    def number_of(self, start: int) -> int:
        """Of an allocation."""
        number = ctypes.c_uint64()
        self._check(self._attribute(byref(number), _BUFFER_ID, start))
        return number.value

    def handle_of(self, start: int) -> bytes:
        handle = _Handle()
        self._check(self._handle(byref(handle), start))
        return bytes(handle.data)

    def map(self, handle: bytes) -> int:
        start, opaque = _address(), _Handle()
        opaque.data[:] = handle
        self._check(self._open(byref(start), opaque, _LAZY_PEER_ACCESS))
        return start.value

    def unmap(self, start: int) -> None:
        self._check(self._close(start))

    def copy(self, into: int, source: int, size_bytes: int, stream: int) -> None:
        self._check(self._copy(into, source, size_bytes, stream))

    def _check(self, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._error(code, byref(text))
            raise _Refusal(f"{(text.value or b'unknown').decode()} (CUDA error {code})")


def _function(function: Any, *kinds: Any) -> Any:
    function.argtypes, function.restype = kinds, ctypes.c_int
    return function
