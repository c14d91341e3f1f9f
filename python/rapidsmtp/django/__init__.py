"""A Django mail backend that uses `Sender`: `EMAIL_BACKEND = "rapidsmtp.django.EmailBackend"`.

Settings, arguments and addresses work as in the SMTP backend of the installed Django version. A
`Sender` sends the messages. So connections stay open between requests. If one message is refused,
the other messages are sent nevertheless.

Options of `Sender` are set in `MAILERS[...]["OPTIONS"]` (Django 6.1 and later), in the dict
`RAPIDSMTP` of the settings (without `MAILERS`), or in the arguments of `get_connection`.
"""

from rapidsmtp.django.backend import EmailBackend as EmailBackend
from rapidsmtp.django.delivering import outcome_known as outcome_known

__all__ = ["EmailBackend", "outcome_known"]
