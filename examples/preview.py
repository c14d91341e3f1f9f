"""Preview a template: print the first subscriber's message as it will be sent.

python examples/preview.py
"""

from pathlib import Path

from rapidsmtp import Outcome, Template

here = Path(__file__).resolve().parent
template = Template.from_eml(here / "newsletter.eml")
first = next(template.merge_csv(here / "subscribers.csv", tag="id"))
if isinstance(first, Outcome):
    raise SystemExit(f"row {first.tag}: {first.reason}")
print(f"from {first.sender} to {', '.join(first.recipients)}")
print(first.data.decode("ascii"))
