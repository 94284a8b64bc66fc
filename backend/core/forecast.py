"""What a render will cost: seconds a stage, memory and disk. A guess from operation counts, corrected by `calibration`
once this machine has rendered.
"""

from __future__ import annotations

from backend.core.calibration import Calibration
from backend.core.delivery import Strip
from backend.core.placement import FP8_FROM_GIB, Placed, Placement, need_of, place
from backend.core.plan import Forecast, Machine, Sampling, Stage
from backend.core.presets import PRESETS
from backend.core.registry import ModelSpec, Transformer
from backend.core.schema import (
    GenerationRequest,
)
from backend.core.units import GIB
from backend.core.windows import pixel_frames

SUSTAINED_FLOPS = (
    ("H200", 600e12),
    ("H100", 600e12),
    ("B200", 1200e12),
    ("A100", 220e12),
    ("L40", 150e12),
    ("4090", 120e12),
)
OTHER_GPU_FLOPS = 80e12
CPU_CORE_FLOPS = 30e9
TEXT_TOKENS = 512
LIBRARIES_GIB = 0.8  # of main memory, before a model is loaded: torch, diffusers, the studio itself
READ_GIB_PER_S = 1.0  # weights from a fast disk
ENCODE_S_PER_PIXEL = 4e-8  # x264, medium, two cores
BYTES_PER_PIXEL = 0.08  # of a finished H.264 video with detail, crf 18
STATE_BYTES_PER_PIXEL = 2.0  # of a draft's state: at most 8 times 16 channels of float32 for 8x8 pixels of 4 frames


def forward_flops(shape: Transformer | None, tokens: int) -> float:
    """Floating-point operations of one transformer call: projections, feed-forward, self- and cross-attention."""
    if shape is None:
        return 0.0
    dim, ffn = shape.dim, shape.ffn_dim
    linear = tokens * (8 * dim * dim + 4 * dim * ffn)
    attention = 4 * tokens * tokens * dim
    cross = 4 * tokens * dim * dim + 4 * TEXT_TOKENS * dim * dim + 4 * tokens * TEXT_TOKENS * dim
    return float(shape.layers * (linear + attention + cross))


def device_flops(machine: Machine) -> float:
    """Sustained operations a second of the device that renders, by its name."""
    if not machine.has_gpu:
        return machine.cores * CPU_CORE_FLOPS
    return next((flops for name, flops in SUSTAINED_FLOPS if name in machine.device), OTHER_GPU_FLOPS)


def forecast_of(guess: dict[Stage, float], calibration: Calibration, peak_gib: float, delivered: Strip) -> Forecast:
    """The forecast for what was guessed; with a range while few renders of the model are known."""
    seconds, uncertainty = calibration.seconds(guess), calibration.uncertainty
    total_s = sum(seconds.values())
    low_s, high_s = (None, None) if uncertainty is None else (total_s / uncertainty, total_s * uncertainty)
    disk_bytes = int(delivered.pixels * BYTES_PER_PIXEL) + 100_000
    return Forecast(seconds, round(peak_gib, 2), disk_bytes, guess, low_s, high_s)


def state_bytes(sampling: Sampling) -> int:
    """The most bytes of the state that a draft keeps, that of its window."""
    frames = pixel_frames(sampling.windows[0].stop)
    return int(STATE_BYTES_PER_PIXEL * sampling.render_width * sampling.render_height * frames)


def guess_seconds(
    sampling: Sampling, spec: ModelSpec, machine: Machine, delivered: Strip, finishing_s: float
) -> dict[Stage, float]:
    """Seconds a stage, before calibration."""
    seconds = _model_seconds(sampling, spec, machine) if spec.denoises else _drawing_seconds(sampling)
    # Frames are finished and encoded as they are rendered, so both count to the stage that yields them.
    making = Stage.DECODING if spec.denoises else Stage.DENOISING
    encoding_s = ENCODE_S_PER_PIXEL * delivered.pixels
    return seconds | {making: seconds[making] + finishing_s + encoding_s, Stage.SAVING: 0.3}


def _drawing_seconds(sampling: Sampling) -> dict[Stage, float]:
    """Seconds a stage of frames that are drawn, not denoised."""
    pixels = sampling.render_width * sampling.render_height * sampling.decoded_frames
    return {Stage.LOADING: 0.0, Stage.DENOISING: 0.2 + 2e-8 * pixels, Stage.DECODING: 0.0}


def place_models(sampling: Sampling, spec: ModelSpec, machine: Machine) -> Placed:
    """The placement on this machine's GPU; without one, all models in main memory as float32."""
    pixels = sampling.render_width * sampling.render_height
    if not spec.denoises:
        return Placed(Placement.RESIDENT, False, 0.1 + 120 * pixels / GIB)
    batch = 2 if sampling.batch_guidance and sampling.guidance_scale > 1 else 1
    tokens = max(_window_tokens(sampling, spec))
    if not machine.has_gpu:
        need = need_of(spec, tokens, batch, pixels, itemsize=4)
        return Placed(Placement.RESIDENT, False, LIBRARIES_GIB + need.peak(Placement.RESIDENT, False))
    need = need_of(spec, tokens, batch, pixels, fp8=sampling.fp8)
    return place(need, machine.vram_gib, PRESETS[sampling.preset].half_decode)


def uses_fp8(request: GenerationRequest, spec: ModelSpec, machine: Machine) -> bool:
    """Whether large linear layers of the transformer are stored in float8: on a GPU, if the preset says so."""
    large = spec.transformer is not None and spec.weights_gib / spec.experts >= FP8_FROM_GIB
    return PRESETS[request.preset].fp8 and machine.has_gpu and large


def _window_tokens(sampling: Sampling, spec: ModelSpec) -> list[int]:
    rows = sampling.render_width * sampling.render_height // (2 * spec.spatial_factor) ** 2
    return [rows * (window.stop - window.start) for window in sampling.windows]


def _model_seconds(sampling: Sampling, spec: ModelSpec, machine: Machine) -> dict[Stage, float]:
    """Seconds a stage of a diffusion model: weights to read, operations to do."""
    flops = device_flops(machine)
    # A draft has evaluations in the first window only.
    evaluations = zip(sampling.num_evaluations, _window_tokens(sampling, spec), strict=False)
    decode = spec.decode_flops * sampling.render_width * sampling.render_height * sampling.decoded_frames
    return {
        Stage.LOADING: 2 + spec.memory_gib / READ_GIB_PER_S,
        Stage.DENOISING: sum(n * forward_flops(spec.transformer, count) for n, count in evaluations) / flops,
        Stage.DECODING: decode / (flops / 4 if machine.has_gpu else flops),
    }
