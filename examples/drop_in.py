"""Use rapidsmtp instead of smtplib: only the import changes.

rapidsmtp sink --port 2525 &
python examples/drop_in.py localhost 2525
"""

import sys
from email.message import EmailMessage

import rapidsmtp as smtplib

message = EmailMessage()
message["From"] = "me@example.com"
message["To"] = "you@example.org, her@example.net"
message["Subject"] = "Grüße"
message.set_content("Sent by the drop-in.\n")

with smtplib.SMTP(sys.argv[1], int(sys.argv[2])) as client:
    refused = client.send_message(message)
    print(refused.reply, refused.accepted)
