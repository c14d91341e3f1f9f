"""The drop-in replacement for smtplib: its classes, implemented with the protocol core."""
