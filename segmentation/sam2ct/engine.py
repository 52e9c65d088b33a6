"""The engines ``sam2``, ``medsam2``, ``sam2ct`` and ``sam2-ft``: one class, four presets."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from segmentation.devices import device_of, dtype_of
from segmentation.sam2ct.config import IMAGE_SIZES, MEDSAM2, SAM2, SAM2_FT, SAM2CT, RoiPolicy, SAM2CTConfig
from segmentation.sam2ct.model import SAM2CTModel
from segmentation.sam2ct.prompts import LINE_END, WITH_LINES, WITHOUT_LINES
from segmentation.sam2ct.propagation import Plan, Wavefront, is_out_of_memory
from segmentation.sam2ct.steps import PointPrompt, Recall
from segmentation.sam2ct.weights import find_weights, load_weights
from segmentation.types import EngineError, Mask, Prompt, SegmentationFailure, SegmentationJob

logger = logging.getLogger("segmentation")

PRESETS: dict[str, SAM2CTConfig] = {"sam2": SAM2, "medsam2": MEDSAM2, "sam2ct": SAM2CT, "sam2-ft": SAM2_FT}
"""Engine name to the configuration that its published weights need."""

_NOT_OPTIONS = frozenset({"name", "model", "weights", "device", "options", "reload", "weights_sha256"})
_CODE_REVISION = "1"
"""Raised when the same weights and options give other masks than before."""


class SAM2Segmenter:
    """A SAM2-family network as an engine. Made by `open_engine`, or from a model in memory.

    Parameters
    ----------
    model
        In float32; moved to ``device``.
    weights_sha256
        Of the file that the model was read from; None for a model in memory.
    reload
        Makes the model anew after a device was lost; None: the weights are kept in main memory for that.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    dtype
        ``"fp32"`` or ``"bf16"`` (mixed precision); None: bf16 on a GPU, fp32 on a CPU.
    batch
        Passes under way at once, two for each lesion; None: 128 on a GPU, 32 on a CPU.
    group
        Passes in one call of the network; None: all on a GPU, 4 on a CPU, where larger calls are no faster.
    volumes
        Volumes under way at once; None: 32 on a GPU, 4 on a CPU.
    features_mb
        Memory for image embeddings of slices that other lesions may need.
    guards
        Leave out what is apart from the lesion (flag ``pieces_dropped``), and stop where a section cannot be the same
        lesion any more (``stopped_area_jump``, ``stopped_drift``, ``stopped_flood``).
    compile
        Compile image encoder and memory attention. Off also on a GPU until someone has measured it there: it takes
        half a minute for each network size, and nobody has seen yet what it brings.
    extent
        See `Plan`; for benchmarks.

    Raises
    ------
    EngineError
        If the device is not there.
    ValueError
        If an option is out of range.

    """

    neutral_options = frozenset({"batch", "group", "volumes", "features_mb", "compile"})
    """Options that decide about speed and memory, not about masks: changing them rebuilds nothing."""

    def __init__(
        self,
        name: str,
        model: SAM2CTModel,
        *,
        weights_sha256: str | None = None,
        reload: Callable[[], SAM2CTModel] | None = None,
        device: str | None = "auto",
        dtype: str | None = None,
        batch: int | None = None,
        group: int | None = None,
        volumes: int | None = None,
        features_mb: float = 1024.0,
        guards: bool = True,
        compile: bool = False,  # noqa: A002 - torch's own word for it
        extent: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.weights_sha256 = name, weights_sha256
        self.config = model.config
        self._device = device_of(device)
        on_gpu = self._device.type == "cuda"
        self._dtype = dtype_of(dtype, self._device)
        least = (("batch", batch, 2), ("group", group, 1), ("volumes", volumes, 1), ("features_mb", features_mb, 0))
        for option, value, bound in least:
            kind = float | int if option == "features_mb" else int
            if value is not None and not (isinstance(value, kind) and value >= bound):
                raise ValueError(f"{option} must be at least {bound}, got {value!r}")
        for option, switch in (("guards", guards), ("compile", compile)):
            if not isinstance(switch, bool):  # the text "false" would count as true
                raise ValueError(f"{option} must be True or False, got {switch!r}")  # noqa: TRY004 - as above
        batch = batch or (128 if on_gpu else 32)
        self._plan = Plan(
            batch,
            group or (batch if on_gpu else 4),
            ragged=on_gpu,
            volumes=volumes or (32 if on_gpu else 4),
            features_mb=features_mb,
            guards=guards,
            extent=extent,
        )
        self._weights = weights_sha256 or _digest(model)
        state = None if reload else {key: value.to("cpu", copy=True) for key, value in model.state_dict().items()}
        self._reload = reload or (lambda: _with_state(model.config, state or {}))
        try:
            self._model = model.to(self._device).eval()
        except RuntimeError as error:
            raise EngineError(f"the network could not be moved to {self._device}: {type(error).__name__}") from error
        if compile:
            self._compile()

    @property
    def supports(self) -> frozenset[type[Prompt]]:
        """Prompt types it segments from; without line embeddings a measurement is given as a box."""
        return WITH_LINES if self.config.prompt_embeddings > LINE_END else WITHOUT_LINES

    @property
    def revision(self) -> str:
        """Code, weights and every option that decides about the masks."""
        what = [self._weights, self.config.to_json(), str(self._dtype), self._plan.guards, self._plan.extent]
        return f"{_CODE_REVISION}-{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment a stream of jobs: lesions of several volumes at once, in any order.

        A GPU that is lost costs what was under way, which is done again on the CPU, and so is the rest.
        """
        stream = iter(jobs)
        while True:
            front = self._wavefront()
            try:
                yield from front.run(stream)
            except RuntimeError as error:
                if not self._is_lost(error):
                    raise
                yield from front.answers()
                logger.warning("the device %s was lost: going on, slowly, on the CPU", self._device)
                self._device, self._dtype = torch.device("cpu"), torch.float32
                self._model = self._reload().eval()
                self._plan = replace(self._plan, group=min(self._plan.group, 4), ragged=False)
                stream = itertools.chain(front.unanswered, stream)
            else:
                return

    def _wavefront(self) -> Wavefront:
        return Wavefront(
            self._model,
            self._plan,
            engine=f"{self.name}@{self.revision}",
            weights_sha256=self.weights_sha256,
            computing=self._computing,
        )

    def _computing(self) -> ExitStack:
        stack = ExitStack()
        # Not inference mode: what the network caches of its positions in there could be trained with no more.
        stack.enter_context(torch.no_grad())
        if self._dtype is not torch.float32:
            stack.enter_context(torch.autocast(self._device.type, self._dtype))
        return stack

    def _is_lost(self, error: RuntimeError) -> bool:
        """Whether ``error`` says that the GPU can no longer be used by this process."""
        lost = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
        return lost and self._device.type != "cpu" and not is_out_of_memory(error)

    def _compile(self) -> None:
        """Compile the two heavy modules and run them once; where that fails, go on without."""
        heavy = self._model.image_encoder, self._model.memory_attention
        try:
            self._rehearse()  # fills the caches of positions, whose first filling would be compiled for itself
            # Only the batch of images is left open: with open sides the compiler takes a quarter of an hour.
            self._model.image_encoder.compile(dynamic=False)
            self._model.memory_attention.compile(dynamic=True)
            self._rehearse()
        except Exception as error:  # noqa: BLE001 - whatever the compiler says, the network runs without it
            logger.warning("the network could not be compiled (%s): going on without", type(error).__name__)
            for module in heavy:
                module._compiled_call_impl = None  # noqa: SLF001 - what Module.compile sets

    def _rehearse(self) -> None:
        """Run the network once at every size that its images may have, with a batch that may differ."""
        from torch._dynamo import mark_dynamic  # slow to import

        model, largest = self._model, self.config.image_size
        for side in [s for s in IMAGE_SIZES if s <= largest] if self.config.roi == "auto" else [largest]:
            images = torch.zeros(2, 3, side, side, device=self._device)
            mark_dynamic(images, 0)
            with self._computing():
                features = model.encode(images)
                start = torch.zeros(2, 1, dtype=torch.long, device=self._device)
                step = model.prompt(features, points=PointPrompt(torch.zeros(2, 1, 2), start))
                model.track(features, Recall(step.memory[:, None], start, step.pointer[:, None], start.float(), True))


def open_engine(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | None = "auto",
    mcm: bool | None = None,
    roi: RoiPolicy | None = None,
    hu_clip: tuple[float, float] | None = None,
    image_size: int | None = None,
    config: SAM2CTConfig | None = None,
    **options: Any,
) -> SAM2Segmenter:
    """Find and load the weights of the engine ``name``, a key of `PRESETS`.

    Parameters
    ----------
    weights
        File, or folder with the file; None: in ``COHORT_WEIGHTS``.
    mcm
        Memory-conditioned memories on or off: test-time MCM (sam2ct.txt 3.4) for any weights.
    roi, hu_clip, image_size
        In place of the configuration's; see `SAM2CTConfig`.
    config
        Instead of the engine's preset.
    options
        Of `SAM2Segmenter`.

    Raises
    ------
    EngineError
        If the weights or the device are missing or wrong.
    ValueError
        If an option is out of range.

    """
    device_of(device)
    allowed = {n for made in (open_engine, SAM2Segmenter) for n in signature(made).parameters} - _NOT_OPTIONS
    if not options.keys() <= allowed:
        wrong = ", ".join(sorted(options.keys() - allowed))
        raise ValueError(f"the engine {name!r} takes no {wrong}; its options: {', '.join(sorted(allowed))}")
    if not isinstance(config, SAM2CTConfig | None):
        raise ValueError(f"config must be a SAM2CTConfig, got {config!r}")  # noqa: TRY004 - as every wrong option
    changes: dict[str, Any] = {"memory_conditioned": mcm, "roi": roi, "hu_clip": hu_clip, "image_size": image_size}
    changes = {field: value for field, value in changes.items() if value is not None}
    if name == "sam2-ft":  # its weights may say otherwise: the same file serves sam2ct
        changes.setdefault("memory_conditioned", False)
    wanted = (config or PRESETS[name]).with_changes(**changes)
    path = find_weights(name, weights)
    model, info = load_weights(path, wanted, **changes)

    def reload() -> SAM2CTModel:
        again, found = load_weights(path, wanted, **changes)
        if found.sha256 != info.sha256:
            raise EngineError(f"{path.name} changed while the run was going on")
        return again

    return SAM2Segmenter(name, model, weights_sha256=info.sha256, reload=reload, device=device, **options)


def _digest(model: SAM2CTModel) -> str:
    """SHA-256 of all tensors: tells models that were read from no file apart."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _with_state(config: SAM2CTConfig, state: dict[str, torch.Tensor]) -> SAM2CTModel:
    model = SAM2CTModel(config)
    model.load_state_dict(state)
    return model
