"""Files in a folder where others may have put anything: opened without following links, and regular files only."""

import errno
import os
import stat


def open_regular(path: str | os.PathLike[str], follow: bool = False) -> int:
    """A descriptor to read a regular file; never waits, as a FIFO without a writer would. follow: links, too.

    Raises OSError, its message for a person, also for what is no regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "it is a link, and links are not followed here", os.fspath(path)) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return fd
