"""Names that other systems rely on: the model file's ends, its place, its name in the registry."""

__all__ = [
    "ARRIVALS",
    "ARRIVAL_KEYS",
    "DEFAULT_OPSET",
    "EXPERIMENT",
    "INPUT",
    "METADATA_KEYS",
    "MODEL_FOLDER",
    "OPSETS",
    "OUTPUTS",
    "PRODUCTION",
    "RECEIVERS_KEY",
    "REGION_KEY",
    "REGISTERED_MODEL",
    "RUN_NAME_PREFIX",
    "STAGING",
    "TIMED_OUTPUTS",
]

INPUT = "mel_spectrogram"
OUTPUTS = ("positions", "uncertainties")
ARRIVALS = "arrival_times"
"""A second input, of models that take times of arrival beside the spectrograms."""
TIMED_OUTPUTS = ("correlations", "unexplained")
"""What those give beside the contract's outputs."""
RECEIVERS_KEY = "heimdall.receivers"
REGION_KEY = "heimdall.region"
METADATA_KEYS = (
    "heimdall.features.config",
    "heimdall.features.fingerprint",
    "heimdall.features.version",
    RECEIVERS_KEY,
    REGION_KEY,
    "heimdall.run_id",
    "heimdall.created_at",
)
"""What every model file says about itself."""
ARRIVAL_KEYS = ("heimdall.arrivals.config", "heimdall.arrivals.fingerprint")
"""What a model file says besides if it takes times of arrival."""
MODEL_FOLDER = "models/localization"
EXPERIMENT = "heimdall-localization"
RUN_NAME_PREFIX = "rf-localization"
REGISTERED_MODEL = "heimdall-localization-onnx"
STAGING = "staging"
PRODUCTION = "production"
OPSETS = range(14, 27)
"""Operator sets that ONNX Runtime 1.29 to 1.31 run, and that we write."""
DEFAULT_OPSET = 20
"""The first with an operator for GELU; 17 and newer are equally fast."""
