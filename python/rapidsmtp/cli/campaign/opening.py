"""Open the journal of a command, and report the journal's errors in one line."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.campaign.model import CampaignState, JournalError
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.cli.usage import UsageError, name_options


@contextlib.contextmanager
def journal_errors(path: str) -> Iterator[None]:
    """Convert the errors of a journal to usage errors.

    Args:
        path: The path of the journal.

    Raises:
        UsageError: The journal, or an argument, cannot be used.
    """
    try:
        yield
    except (JournalError, ValueError) as error:
        raise UsageError(name_options(str(error))) from None
    except BrokenPipeError:  # the reader of the standard output has closed it
        raise
    except OSError as error:
        if error.strerror is None:
            raise UsageError(str(error)) from None
        raise UsageError(f"{error.filename or path}: {error.strerror}") from None


@contextlib.contextmanager
def opened(
    options: argparse.Namespace, arguments: Mapping[str, Any] | None = None
) -> Iterator[Campaign]:
    """Open the journal that a command names, and close it at the end of the `with` block.

    Args:
        options: The options of the command.
        arguments: Further arguments of `Campaign.open`.

    Raises:
        UsageError: The journal cannot be opened.
    """
    with journal_errors(options.journal):
        campaign = Campaign.open(
            options.journal, older_copy=options.older_copy, **(arguments or {})
        )
    with contextlib.closing(campaign):
        yield campaign


def brief_status(status: CampaignStatus) -> str:
    """Return the name, the state and the progress of a campaign in a few words."""
    return (
        f'campaign "{status.name}" {status.id}, {status.state}, {status.accepted} of {status.rows} '
        "rows accepted"
    )


def way_on(status: CampaignStatus, path: str) -> str:
    """Return the next step for the user, in a few words."""
    if status.state is CampaignState.PAUSED:
        return f"continue with rapidsmtp campaign resume {path} and rapidsmtp campaign run {path}"
    if status.state in (CampaignState.DONE, CampaignState.ABORTED):
        return f"see rapidsmtp campaign status {path}"
    return f"continue with rapidsmtp campaign run {path}"
