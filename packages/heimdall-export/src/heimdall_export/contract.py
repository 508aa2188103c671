"""Names that other systems rely on: the model file's ends, its place, its name in the registry."""

__all__ = [
    "EXPERIMENT",
    "INPUT",
    "MODEL_FOLDER",
    "OUTPUTS",
    "PRODUCTION",
    "REGISTERED_MODEL",
    "STAGING",
]

INPUT = "mel_spectrogram"
OUTPUTS = ("positions", "uncertainties")
MODEL_FOLDER = "models/localization"
EXPERIMENT = "heimdall-localization"
REGISTERED_MODEL = "heimdall-localization-onnx"
STAGING = "staging"
PRODUCTION = "production"
