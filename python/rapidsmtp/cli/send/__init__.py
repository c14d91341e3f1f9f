"""`rapidsmtp send`: send a message to a relay for each row of a recipients list."""
