"""Django's mail over `Sender`: `EMAIL_BACKEND = "rapidsmtp.django.EmailBackend"`.

The backend is Django's own SMTP backend as far as settings, arguments and addresses go, in
whichever version is installed. What it does with the messages is `Sender`'s: connections are kept
between requests, and a refusal is the matter of one message.

Options of `Sender` stand in `MAILERS[...]["OPTIONS"]` (Django 6.1 and later), in the setting
`RAPIDSMTP`, a dict (without `MAILERS`), or in the arguments of `get_connection`.
"""

from rapidsmtp.django.backend import EmailBackend as EmailBackend
from rapidsmtp.django.delivering import outcome_known as outcome_known

__all__ = ["EmailBackend", "outcome_known"]
