# The interface of the compiled half, checked against it by stubtest.
__version__: str
