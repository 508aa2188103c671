"""Train, evaluate, export and register a localization model."""
