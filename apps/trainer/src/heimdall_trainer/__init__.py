"""Train, evaluate, export and register localization models: composition only."""

import os

# As heimdall_models does: here, too, Lightning may be the first to load ONNX Runtime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
