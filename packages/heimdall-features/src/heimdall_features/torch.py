"""The same features as a torchaudio module: batched, on any device, differentiable.

For features on the GPU during training. Recordings must have the configured rate. Values agree
with `FeatureExtractor` to a thousandth of a dB down to 80 dB below the strongest band (the limit
of float32); with complex128 input, in all bands.

Installed by the extra `heimdall-features[torch]`.
"""

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor, nn

from heimdall_features.config import FeatureConfig
from heimdall_features.errors import FeatureError
from heimdall_features.frames import FramePlan
from heimdall_features.mel import filter_bank
from heimdall_features.signal import LARGEST_SAMPLE
from heimdall_features.spectrum import scaled_window


class MelFeatures(nn.Module):
    """IQ to the model's input, as `config` defines it.

    The window and the filter bank are buffers that move and convert with the module. A band
    without an FFT bin raises a `FeatureError`.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        window = np.array(scaled_window(config.n_fft))
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        bank = np.array(filter_bank(config))
        self.register_buffer("bank", torch.from_numpy(bank), persistent=False)

    def forward(self, iq: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the features of a batch.

        Args:
            iq: `(batch, receivers, n_samples)` at the configured rate with full scale 1: complex
                for `two-sided` and `envelope`, real for `one-sided`.
            present: bool `(batch, receivers)`; where False, the channel is filled. None: all.

        Returns:
            `(batch, receivers, n_mels, n_frames)`, dB relative to full scale; float64 for input
            of that precision, else float32.

        Raises:
            FeatureError: The input is not such a batch.
        """
        signal = self._checked(iq)
        plan = FramePlan(
            iq.shape[-1], self.config.n_fft, self.config.hop_length, self.config.n_frames
        )
        parts = []
        for first, n_frames in plan.runs(0, plan.n_frames):
            stop = first + (n_frames - 1) * plan.hop_length + plan.n_fft
            spectrogram = torchaudio.functional.spectrogram(
                signal[..., first:stop],
                pad=0,
                window=self.window.to(signal.real.dtype),
                n_fft=plan.n_fft,
                hop_length=plan.hop_length,
                win_length=plan.n_fft,
                power=2.0,
                normalized=False,
                center=False,
                onesided=self.config.spectrum != "two-sided",
            )
            parts.append(spectrogram)
        powers = torch.cat(parts, dim=-1)
        # Frames are averaged inside each column: (..., frames) to (..., columns).
        means = torch.zeros(plan.n_frames, self.config.n_frames, dtype=powers.dtype)
        for column, first, stop in plan.columns(0, plan.n_frames):
            means[first:stop, column] = 1.0 / (stop - first)
        powers = powers @ means.to(powers.device)
        bands = self.bank.to(powers.dtype).T @ powers
        levels: Tensor = torchaudio.functional.amplitude_to_DB(
            bands, multiplier=10.0, amin=float(np.finfo(np.float32).tiny), db_multiplier=0.0
        ).clamp(min=self.config.floor_db)
        if present is None:
            return levels
        filled: Tensor = levels.where(present[..., None, None], self.config.fill_db)
        return filled

    def _checked(self, iq: Tensor) -> Tensor:
        if iq.ndim != 3 or iq.shape[1] != len(self.config.receivers):
            raise FeatureError(
                f"a batch has shape (batch, {len(self.config.receivers)}, n_samples), "
                f"not {tuple(iq.shape)}"
            )
        is_real = self.config.spectrum == "one-sided"
        if is_real == iq.is_complex() or not (iq.is_complex() or iq.is_floating_point()):
            kind = "real floats" if is_real else "complex IQ"
            raise FeatureError(f"a {self.config.spectrum} spectrum takes {kind}, not {iq.dtype}")
        parts = torch.view_as_real(iq) if iq.is_complex() else iq
        if not torch.isfinite(parts).all():
            raise FeatureError(
                f"the batch of shape {tuple(iq.shape)} holds NaN or infinite samples; "
                "repair or drop them"
            )
        if (parts.abs() > LARGEST_SAMPLE).any():
            raise FeatureError(
                f"the batch of shape {tuple(iq.shape)} has samples above {LARGEST_SAMPLE:g}, and "
                "full scale is 1; divide by the largest value of the receiver's converter"
            )
        return iq.abs() if self.config.spectrum == "envelope" else iq
