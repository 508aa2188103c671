"""`heimdall sessions`: what is in the catalogue, and what operators approve for training."""

from __future__ import annotations

import sys
import uuid
from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from heimdall_data.catalogue.approval import Approval, Status
from heimdall_data.catalogue.session import SessionFilter
from heimdall_features.names import shown, user_name

from heimdall_trainer.config import FILTER
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError
from heimdall_trainer.events import finite
from heimdall_trainer.flags import Json, command_group

if TYPE_CHECKING:
    from heimdall_data import Catalogue
    from heimdall_data.catalogue.approval import SessionEntry

app = command_group("sessions")
NOWHERE = Connections()
EVERY = SessionFilter()
Id = Annotated[str, Parameter(help="Id of the session, as `heimdall sessions list` shows it.")]
Ids = Annotated[str, Parameter(help="Ids of sessions.")]
Reason = Annotated[str, Parameter(help="Why, for the record.")]
By = Annotated[str | None, Parameter(help="Who decides; the user of this machine when not given.")]


@app.command(name="list")
def list_sessions(
    *,
    approval: Approval | None = None,
    status: Status | None = None,
    only: Annotated[SessionFilter, FILTER] = EVERY,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    json: Json = False,
    connections: Connections = NOWHERE,
) -> None:
    """List sessions, the newest first, whether they can be trained on or not.

    Parameters
    ----------
    approval
        Only those that are pending, approved or rejected.
    status
        Only those whose recording is in this state.
    limit
        Most sessions that are listed; all are counted.
    """
    from heimdall_data.catalogue import approval as sessions

    with _catalogue(connections) as catalogue:
        found, n_all = sessions.list_sessions(
            catalogue, only, approval=approval, status=status, limit=limit
        )
    if json:
        print(dumps([_plain(each) for each in found], indent=2))
    else:
        for each in found:
            print(_line(each))
        if not found:
            print(f"no such session in {catalogue.where}")
    if n_all > len(found):
        print(
            f"... and {n_all - len(found)} older; --limit {n_all} lists them",
            file=sys.stderr if json else sys.stdout,
        )


@app.command
def show(session: Id, /, *, json: Json = False, connections: Connections = NOWHERE) -> None:
    """Show a session's recordings, whether it is trained on, and who decided what about it."""
    from heimdall_data.catalogue import approval as sessions

    (identity,) = _known_form((session,))
    with _catalogue(connections) as catalogue:
        reason = sessions.why_unusable(catalogue, (identity,))[identity]
        (found,), _ = sessions.list_sessions(catalogue, EVERY, ids=(identity,))
        recordings = sessions.measurements(catalogue, identity)
        decided = sessions.decisions(catalogue, identity)
    if json:
        more = {
            "unusable": reason,
            "recordings": [finite(asdict(each)) for each in recordings],
            "decisions": [asdict(each) for each in decided],
        }
        print(dumps(_plain(found) | more, indent=2, default=lambda moment: moment.isoformat()))
        return
    print(_line(found))
    if found.position_deg is not None:
        print("source at {:.5f}, {:.5f} degrees".format(*found.position_deg))
    for each in recordings:
        rate = f"{each.sample_rate_hz:g} Hz" if each.sample_rate_hz else "no rate"
        snr = "" if each.snr_db is None else f"  SNR {each.snr_db:.1f} dB"
        where = f"s3://{each.bucket}/{each.key}"
        print(shown(f"  {each.station:20s}  {rate}{snr}  {each.format or 'npy'}  {where}"))
    print(f"not trained on: {reason}" if reason else "usable for training")
    for one in decided:
        print(shown(f"{one.at:%Y-%m-%d %H:%M}  {one.by}: {one.approval_status}  {one.reason}"))


@app.command
def approve(
    *sessions: Ids,
    reason: Reason = "",
    by: By = None,
    connections: Connections = NOWHERE,
) -> None:
    """Let sessions be trained on, and record who decided it, when and why."""
    _decide(sessions, "approved", reason, by, connections)


@app.command
def reject(
    *sessions: Ids,
    reason: Reason = "",
    by: By = None,
    connections: Connections = NOWHERE,
) -> None:
    """Keep sessions out of training, and record who decided it, when and why."""
    _decide(sessions, "rejected", reason, by, connections)


def _decide(
    sessions: tuple[str, ...],
    approval: Approval,
    reason: str,
    by: str | None,
    connections: Connections,
) -> None:
    from heimdall_data.catalogue.approval import decide, why_unusable

    if not sessions:
        raise UsageError("no session is given; see `heimdall sessions list --approval pending`")
    ids = _known_form(sessions)
    with _catalogue(connections) as catalogue:
        decide(catalogue, ids, approval, by=user_name() if by is None else by, reason=reason)
        reasons = why_unusable(catalogue, ids) if approval == "approved" else {}
        for identity in ids:
            unusable = reasons.get(identity)
            note = f", but not trained on: {unusable}" if unusable else ""
            print(f"{identity} is {approval}{note}")


def _catalogue(connections: Connections) -> Catalogue:
    from heimdall_data import Catalogue

    return Catalogue(
        connections.need_database(), default_bucket=connections.raw_iq_bucket, patience_s=10.0
    )


def _known_form(sessions: tuple[str, ...]) -> tuple[str, ...]:
    """The ids, without repetitions, as the catalogue writes them."""
    found = []
    for each in sessions:
        try:
            found.append(str(uuid.UUID(each)))
        except ValueError:
            raise UsageError(f"{each!r} is no id of a session, which is a UUID") from None
    return tuple(dict.fromkeys(found))


def _line(entry: SessionEntry) -> str:
    start = "no valid start  " if entry.start is None else f"{entry.start:%Y-%m-%d %H:%M}"
    state = f"{entry.approval_status:8s}  {entry.status:11s}"
    what = f"{entry.source_name or 'no source'} / {entry.session_name}"
    stations = ", ".join(entry.stations) or "no recordings"
    return shown(f"{entry.id}  {start}  {state}  {what}  ({stations})")


def _plain(entry: SessionEntry) -> dict[str, object]:
    start = None if entry.start is None else entry.start.isoformat()
    return asdict(entry) | {"start": start}
