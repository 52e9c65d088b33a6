"""Processes that decode compressed slices, since no decoder lets two threads of one process decode at once.

They are started for the first series that is worth it and wait for the next one; they end with this process. A worker
of a build starts none: its neighbours have the cores. What they send back goes straight into the array of the volume.
"""

from __future__ import annotations

import atexit
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from cohort_builder.ct.decoders import installed_decoders
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Instance

_SLOW = frozenset(
    f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203")
)
_WORTH_BYTES = 64 << 20  # of pixels: less than a second's work for one process
_CHUNK = 8  # slices at a time
_MOST = 8
_DONE, _FAILED = b"\0", b"\1"


def count_for(instances: Sequence[Instance], n_bytes: int) -> int:
    """How many helpers to read ``instances`` with, whose pixels take ``n_bytes``; 0: read them here."""
    syntax = instances[0].transfer_syntax_uid
    own_threads = installed_decoders().get(syntax, [])[:1] == ["gdcm"] and syntax.endswith((".90", ".91"))
    if n_bytes < _WORTH_BYTES or syntax not in _SLOW or own_threads or multiprocessing.parent_process() is not None:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST) if cores > 1 else 0


def read_with(count: int, instances: Sequence[Instance], voxels: NDArray[np.int16]) -> None:
    """As ``cohort_builder.ct.pixels.read_slices``, by ``count`` helpers."""
    starts: SimpleQueue[int] = SimpleQueue()
    for start in range(0, len(instances), _CHUNK):
        starts.put(start)

    def work(helper: _Helper) -> None:
        with suppress(Empty):
            while True:
                part = slice(start := starts.get_nowait(), start + _CHUNK)
                helper.read(instances[part], voxels[part])

    with _turn:
        try:
            while len(_helpers) < count:
                _helpers.append(_Helper())
            with ThreadPoolExecutor(count) as threads:
                list(threads.map(work, _helpers[:count]))
        except BaseException:
            close()  # one of them may be in the middle of an answer
            raise


class _Helper:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from cohort_builder.ct.helpers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # codecs write to it
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def read(self, instances: Sequence[Instance], voxels: NDArray[np.int16]) -> None:
        """Have ``voxels`` filled."""
        question, answer = (
            cast("io.BufferedWriter", self._process.stdin),
            cast("io.BufferedReader", self._process.stdout),
        )
        try:
            pickle.dump((instances, voxels.shape), question)
            question.flush()
            status = answer.read(1)
            if status == _DONE:
                status = _DONE if answer.readinto(voxels.data.cast("B")) == voxels.nbytes else b""
        except BrokenPipeError:
            status = b""
        if status == _FAILED:
            raise GeometryError(json.loads(answer.readline()))  # read as data: codecs of any file run over there
        if status != _DONE:
            raise GeometryError("the process that decodes an image of the series ended: its decoder may have crashed")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


_turn = Lock()
_helpers: list[_Helper] = []


@atexit.register
def close() -> None:
    """End all helpers; the next series that is worth it starts new ones."""
    while _helpers:
        _helpers.pop().close()


def serve() -> None:
    """Answer the questions of ``_Helper.read`` until there are no more: the main loop of a helper."""
    from cohort_builder.ct.pixels import read_here

    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a codec prints is no answer
    with suppress(EOFError, BrokenPipeError):
        while True:
            instances, shape = pickle.load(questions)  # noqa: S301 - our own process wrote it
            voxels = np.empty(shape, dtype=np.int16)
            try:
                read_here(instances, voxels)
            except GeometryError as error:
                answers.write(_FAILED)
                answers.write(json.dumps(str(error)).encode() + b"\n")
            else:
                answers.write(_DONE)
                answers.write(voxels.data.cast("B"))
            answers.flush()
