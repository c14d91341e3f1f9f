"""`rapidsmtp send --journal` and `rapidsmtp campaign`: mailings that survive crashes."""
