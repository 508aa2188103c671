"""A private Postgres and S3 server under one state directory, for those who have neither.

`EmbeddedStack` is the door. Both servers listen on loopback only, on free ports, with
generated credentials that live in one file of mode 0600 and are never printed.
"""

from heimdall_data.embedded.stack import EmbeddedStack, ServerStatus, StackStatus

__all__ = ["EmbeddedStack", "ServerStatus", "StackStatus"]
