"""A private Postgres and S3 server under one state directory, for those who have neither.

Both listen on loopback only, on free ports, with generated credentials that are kept in one file
of mode 0600 and are never printed.
"""

from importlib.util import find_spec

from heimdall_data.errors import StackError

if find_spec("psutil") is None:
    raise StackError(
        "the embedded servers are not installed; install heimdall-data[embedded], or set "
        "HEIMDALL_DATABASE_URL and HEIMDALL_S3_ENDPOINT_URL to servers of your own"
    )

from heimdall_data.embedded.stack import EmbeddedStack, ServerStatus, StackStatus

__all__ = ["EmbeddedStack", "ServerStatus", "StackStatus"]
