"""Public data sets of real measurements, one module each, read from folders that users download.

Each reader refuses a file that is not in its format, naming file, line and column.
"""
