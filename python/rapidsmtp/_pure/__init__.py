"""The twin: the protocol core of `src/` in plain Python, module for module.

It is used where no compiled wheel fits. `rapidsmtp._core` chooses between the halves; nothing
else imports this package. `__all__` is the interface that both halves give.
"""

__all__: list[str] = []
