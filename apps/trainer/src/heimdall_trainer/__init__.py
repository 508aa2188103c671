"""Train, evaluate, export and register localization models: composition only."""
