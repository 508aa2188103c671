"""Public data sets of real measurements, one module each, which describes the folder it reads.

Each reader refuses a file that is not in its format, naming file, line and column.
"""
