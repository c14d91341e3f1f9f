"""Compose and send a few messages without a template file, over one connection.

rapidsmtp sink --port 2525 &
python examples/invitations.py localhost 2525
"""

import sys

from rapidsmtp import SMTP, Outcome, Template

template = Template.compose(
    sender="Lesesaal Books <hello@example.com>",
    to="{{ name }} <{{ email }}>",
    subject="{{ name|default('You') }}, a seat is reserved for you",
    text="""Dear {{ name }},

{% if guests > 1 %}{{ guests }} seats are{% else %}a seat is{% endif %} yours on Tuesday.
""",
    html="<p>Dear {{ name }},</p><p>see you on <b>Tuesday</b>.</p>",
)
rows = [
    {"name": "Zoë, the elder", "email": "zoe@example.com", "guests": 2},
    {"name": "", "email": "nobody@example.com", "guests": 1},
]
with SMTP(sys.argv[1], int(sys.argv[2])) as client:
    for item in template.merge(rows, tag="email"):
        if isinstance(item, Outcome):
            print(f"{item.tag}: {item.reason}")
        else:
            client.sendmail(item.sender, item.recipients, item.data, item.mail_options)
            print(f"{item.tag}: sent")
