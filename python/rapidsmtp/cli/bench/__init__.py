"""`rapidsmtp bench` and `rapidsmtp demo`: compare smtplib and rapidsmtp on this machine."""
