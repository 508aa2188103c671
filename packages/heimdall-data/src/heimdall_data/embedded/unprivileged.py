"""Running Postgres, which refuses to be root, where we are root.

The server then runs as `nobody`. Directories above the state directory or above its
programs may be closed to others (`/root` is): instead of opening them, the server keeps the
one capability that lets it pass through. `setpriv` of util-linux, which every Debian has,
does both.

Source: capabilities(7), section "Ambient capabilities"; setpriv(1).
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Identity", "identity_for"]

# In the order of how little they allow: to read and pass; to do anything to any file.
_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server runs as, and the words before its command line that make it so."""

    prefix: tuple[str, ...] = ()
    user_id: int | None = None
    group_id: int | None = None

    def own(self, path: Path) -> None:
        """Give `path` to this identity."""
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)


def identity_for(paths: Iterable[Path]) -> Identity:
    """Ourselves, or for root an identity that Postgres accepts and that reaches `paths`.

    Raises:
        StackError: we are root and there is no way to be somebody else.
    """
    if os.geteuid() != 0:
        return Identity()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "Postgres does not run as root, and setpriv (Debian: util-linux) is not here to "
            "change that; install it, or start the stack as an ordinary user"
        )
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "Postgres does not run as root, and this machine has no user 'nobody' to run it; "
            "start the stack as an ordinary user"
        ) from None
    words = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if any(_closed(parent) for path in paths for parent in path.resolve().parents):
        keep = f"-all,+{_capability_held()}"
        words += [f"--inh-caps={keep}", f"--ambient-caps={keep}"]
    return Identity((*words, "--"), nobody.pw_uid, nobody.pw_gid)


def _closed(directory: Path) -> bool:
    return not directory.stat().st_mode & stat.S_IXOTH


def _capability_held() -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    for name, bit in _CAPABILITIES:
        if effective >> bit & 1:
            return name
    raise StackError(
        "the state directory lies below one that is closed to others, and root lacks the "
        "capability to pass here; set HEIMDALL_STATE_DIR to a directory open to others"
    )
