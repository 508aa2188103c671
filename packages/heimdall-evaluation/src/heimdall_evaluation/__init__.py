"""Evaluation of a position model: metrics, calibration, a report, and a comparison of two models.

`evaluate` runs a model file and the baselines on a `dataset`; `report` renders the result as a
page; `compare` pairs two results and tests their difference. None of it needs the trainer.
"""

__version__ = "0.1.0"
