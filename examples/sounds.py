"""Spectrogram windows of a synthetic fan, as MLPerf Tiny's anomaly detection makes them of recordings."""

import numpy as np
import numpy.typing as npt

RATE = 16_000
FRAME, HOP = 1024, 512
BANDS, FRAMES = 128, 5


def fan(seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """The sound of a fan: harmonics of a rotation that drifts, and air noise that they modulate."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    speed = 47.0 + 0.8 * np.sin(2 * np.pi * 0.3 * time + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(speed) / RATE
    tones = sum(np.sin(k * phase + random.uniform(0, 6)) / k**0.7 for k in range(1, 40))
    noise = np.convolve(random.standard_normal(time.size), np.exp(-np.arange(32) / 6.0), "same")
    return 0.3 * tones + 0.2 * noise * (1 + 0.4 * np.sin(phase))


def mel_filters() -> npt.NDArray[np.float64]:
    """Triangular filters on the mel scale, BANDS x (FRAME / 2 + 1)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, RATE / 2, FRAME // 2 + 1)
    lower, center, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - lower) / (center - lower), (upper - bins) / (upper - center)
    return np.maximum(0, np.minimum(rising, falling))


def windows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """`count` windows of FRAMES log-mel frames, one after the other, normalised: count x 640."""
    frames = count + FRAMES - 1
    sound = fan((frames * HOP + FRAME) / RATE, seed)
    pieces = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP][:frames] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(pieces)) ** 2
    decibel = 10 * np.log10(power @ mel_filters().T + 1e-6)
    decibel = (decibel - decibel.mean()) / decibel.std()
    stacked = np.lib.stride_tricks.sliding_window_view(decibel, FRAMES, axis=0)
    return stacked.transpose(0, 2, 1).reshape(frames - FRAMES + 1, FRAMES * BANDS).astype(np.float32)
