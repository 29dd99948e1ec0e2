"""The C library's allocator, which keeps what was given back to it unless it is asked."""


def give_memory_back() -> None:
    """Return to the system what was needed for a moment; C libraries other than glibc do it by themselves or not."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
