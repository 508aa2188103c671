"""`heimdall compare`: two models on the same sessions, side by side.

`sides` finds what each model says of the sessions, `pairs` keeps those that both were asked
about, `significance` says what the difference amounts to, `page` and `closing` show it.
"""
