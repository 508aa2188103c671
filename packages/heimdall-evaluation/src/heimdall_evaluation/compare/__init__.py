"""The comparison of two models on the same sessions.

`pairs` keeps the sessions that both evaluations have, `significance` tests their difference,
`wording` and `page` show it.
"""
