"""Programs that connect for each message, with other projects' libraries over smtplib.

Run as `mail_programs.py NAME PORT COUNT`. None of the programs knows rapidsmtp.
"""

import smtplib
import sys
from email.mime.text import MIMEText

HOST, USER, PASSWORD = "127.0.0.1", "user@example.com", "secret"
TO = "bob@example.org"


def yagmail(port: int, subject: str) -> None:
    import yagmail

    client = yagmail.SMTP(USER, PASSWORD, host=HOST, port=port, smtp_starttls=True, smtp_ssl=False)
    client.send(TO, subject, "text")
    client.close()


def flask_mail(port: int, subject: str) -> None:
    from flask import Flask
    from flask_mail import Mail, Message

    app = Flask(__name__)
    app.config.update(
        MAIL_SERVER=HOST,
        MAIL_PORT=port,
        MAIL_USE_TLS=True,
        MAIL_USERNAME=USER,
        MAIL_PASSWORD=PASSWORD,
    )
    with app.app_context():
        Mail(app).send(Message(subject, sender=USER, recipients=[TO], body="text"))


def redmail(port: int, subject: str) -> None:
    from redmail import EmailSender

    client = EmailSender(host=HOST, port=port, username=USER, password=PASSWORD)
    client.send(subject=subject, sender=USER, receivers=[TO], text="text")


def apprise(port: int, subject: str) -> None:
    from apprise import Apprise
    from apprise.plugins.base import NotifyBase

    NotifyBase.request_rate_per_sec = 0  # no pause between two messages
    client = Apprise()
    user = USER.replace("@", "%40")
    client.add(
        f"mailto://{user}:{PASSWORD}@{HOST}:{port}?from={USER}&to={TO}&mode=starttls&smtp={HOST}"
    )
    assert client.notify(title=subject, body="text")


def django(port: int, subject: str) -> None:
    from django.conf import settings
    from django.core.mail import send_mail

    if not settings.configured:
        settings.configure(
            EMAIL_HOST=HOST,
            EMAIL_PORT=port,
            EMAIL_USE_TLS=True,
            EMAIL_HOST_USER=USER,
            EMAIL_HOST_PASSWORD=PASSWORD,
        )
    send_mail(subject, "text", USER, [TO])


def task(port: int, subject: str) -> None:
    """The steps of a task in a workflow system, such as Airflow's `send_email_smtp`."""
    message = MIMEText("text")
    message["Subject"], message["From"], message["To"] = subject, USER, TO
    client = smtplib.SMTP(host=HOST, port=port, timeout=30)
    client.starttls()
    client.login(USER, PASSWORD)
    client.sendmail(USER, [TO], message.as_string())
    client.quit()


PROGRAMS = {each.__name__: each for each in (yagmail, flask_mail, redmail, apprise, django, task)}

if __name__ == "__main__":
    _, name, port, count = sys.argv
    for number in range(int(count)):
        PROGRAMS[name](int(port), f"message {number}")
