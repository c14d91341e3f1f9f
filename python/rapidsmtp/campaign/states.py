"""The states of a campaign, and all transitions between them.

    loading ──► ready ◄──► running ──► done        (ready ──► done, done ──► ready)
                  ▲ │         │
                  │ ▼         ▼
                 paused ◄─────┘        ready, running, paused ──► aborted

A transition is one statement that changes the campaign only in the states from which the transition
starts. So two processes cannot undo each other's transitions. `Loader.finish` makes the first
transition, and saves the hash of the list in the same statement.
"""

from typing import NamedTuple

from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.model import CampaignState

GRANTABLE = (CampaignState.READY, CampaignState.RUNNING)
"""The states in which rows are granted."""

_CHUNKS = "EXISTS (SELECT 1 FROM lease WHERE lease.campaign = campaign.no AND lease.state"


class Transition(NamedTuple):
    """A transition of a campaign.

    Attributes:
        earlier: The states from which the transition starts.
        state: The state to which the transition leads.
        condition: A further condition for the transition, in SQL.
    """

    earlier: tuple[CampaignState, ...]
    state: CampaignState
    condition: str = "1 = 1"


BEGIN = Transition(GRANTABLE, CampaignState.RUNNING)
"""A run begins. Another run may already be active."""
END = Transition((CampaignState.RUNNING,), CampaignState.READY, f"NOT {_CHUNKS} = 'leased')")
"""The last active run has ended, and rows may be due."""
FINISH = Transition(GRANTABLE, CampaignState.DONE, f"NOT {_CHUNKS} <> 'done')")
"""No row is due again."""
REOPEN = Transition((CampaignState.DONE,), CampaignState.READY, f"{_CHUNKS} <> 'done')")
"""Rows are due again: the user added or corrected rows, or a lost lease got late outcomes."""
PAUSE = Transition(GRANTABLE, CampaignState.PAUSED)
RESUME = Transition((CampaignState.PAUSED,), CampaignState.READY)
ABORT = Transition((*GRANTABLE, CampaignState.PAUSED), CampaignState.ABORTED)


def state_of(database: Database, campaign: int) -> CampaignState:
    """Return the state of a campaign, by its number."""
    row = database.execute("SELECT state FROM campaign WHERE no = ?", (campaign,)).fetchone()
    return CampaignState(row[0])


def change(
    database: Database, campaign: int, transition: Transition, now: int, reason: str | None = None
) -> bool:
    """Change the state of a campaign, if the transition is possible, inside a transaction.

    Args:
        database: The database.
        campaign: The number of the campaign.
        transition: The transition.
        now: The time, in milliseconds since 1970.
        reason: The reason for PAUSE and ABORT.

    Returns:
        Whether the state was changed.
    """
    state = transition.state
    marks = ", ".join("?" * len(transition.earlier))
    changed = database.execute(
        "UPDATE campaign SET state = ?, reason = ?, started_at = coalesce(started_at, ?), "
        f"finished_at = ? WHERE no = ? AND state IN ({marks}) AND {transition.condition}",
        (
            state,
            reason,
            now if state is CampaignState.RUNNING else None,
            now if state is CampaignState.DONE else None,
            campaign,
            *transition.earlier,
        ),
    )
    return changed.rowcount == 1
