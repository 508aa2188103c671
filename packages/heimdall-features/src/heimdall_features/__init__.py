"""Mel features of IQ recordings, the same in training and in service.

Importing this package loads NumPy only. Besides the names below there are
`heimdall_features.nuisances` (augmentation of IQ), `heimdall_features.torch` (the same features
as a module, extra `[torch]`) and `heimdall_features.testing` (signals and strategies for tests).
"""

from heimdall_features.arrivals import (
    ARRIVAL_COLUMNS,
    ArrivalConfig,
    ArrivalExtractor,
    MeasuredArrivals,
)
from heimdall_features.augmentation import Augmentation, augment_features
from heimdall_features.cepstrum import compute_mfcc
from heimdall_features.clock import ClockedRecording
from heimdall_features.config import FeatureConfig
from heimdall_features.correlation import CorrelationConfig, cross_correlation_features
from heimdall_features.errors import FeatureError
from heimdall_features.extractor import FeatureExtractor
from heimdall_features.normalization import NormalizationStats, normalize_features
from heimdall_features.signal import Blocks
from heimdall_features.spectrogram import iq_to_mel_spectrogram

__all__ = [
    "ARRIVAL_COLUMNS",
    "ArrivalConfig",
    "ArrivalExtractor",
    "Augmentation",
    "Blocks",
    "ClockedRecording",
    "CorrelationConfig",
    "FeatureConfig",
    "FeatureError",
    "FeatureExtractor",
    "MeasuredArrivals",
    "NormalizationStats",
    "augment_features",
    "compute_mfcc",
    "cross_correlation_features",
    "iq_to_mel_spectrogram",
    "normalize_features",
]
