"""Names that other systems rely on: those of the model file, its address, and MLflow's entries."""

INPUT = "mel_spectrogram"
OUTPUTS = ("positions", "uncertainties")
ARRIVALS = "arrival_times"
"""Second input of models that take times of arrival beside the spectrograms."""
CORRELATIONS, UNEXPLAINED = "correlations", "unexplained"
TIMED_OUTPUTS = (CORRELATIONS, UNEXPLAINED)
"""Further outputs of those models."""
MIXTURE_OUTPUTS = ("weights", "means", "covariances")
"""Further outputs of models that answer with a mixture of Gaussians."""
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
"""Metadata of every model file."""
ARRIVAL_KEYS = ("heimdall.arrivals.config", "heimdall.arrivals.fingerprint")
"""Further metadata of models that take times of arrival."""
MODEL_FOLDER = "models/localization"
EXPERIMENT = "heimdall-localization"
RUN_NAME_PREFIX = "rf-localization"
REGISTERED_MODEL = "heimdall-localization-onnx"
JOURNAL_SUFFIX = ".production-journal"
"""End of the name of the registered model that is the journal of a model's production."""
STAGING = "staging"
PRODUCTION = "production"
DELETING = "Deleting"
"""Value of a version's tag `stage` while its files are being deleted."""
OPSETS = range(14, 27)
"""Operator sets that we write and that ONNX Runtime 1.29 to 1.31 runs."""
DEFAULT_OPSET = 20
"""The first operator set with GELU; 17 and newer are equally fast."""


def allowed_model_name(name: str) -> str:
    """What the name of a registered model must be; empty if it is."""
    if name.endswith(JOURNAL_SUFFIX):
        return f"a name that does not end in {JOURNAL_SUFFIX}, the end of our journals' names"
    if "'" in name and '"' in name:
        return "a name with one kind of quotes, because MLflow finds no name with both"
    return ""
