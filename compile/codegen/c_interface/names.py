"""Names of a model in C."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mobilenet_tvm.targets.errors import UserError

#: Headers of C, POSIX, Linux and the compilers, which a model's header would hide from `#include`.
_HEADERS = """
aio aliases alloca ar argp argz assert byteswap complex cpio cpuid crypt ctype dirent dlfcn elf
endian envz err errno error execinfo fcntl features fenv float fmtmsg fnmatch fpregdef fpu_control
fstab fts ftw gconv getopt glob grp gshadow iconv ieee754 ifaddrs inttypes iso646 langinfo lastlog
libgen libintl limits link locale malloc math mcheck memory mntent monetary mqueue netdb nl_types
nss obstack paths poll printf proc_service pthread pty pwd re_comp regdef regex regexp resolv sched
search semaphore setjmp sgidefs sgtty shadow signal spawn stab stdalign stdarg stdatomic stdbit
stdbool stdckdint stddef stdint stdio stdio_ext stdlib stdnoreturn string strings stropts syscall
sysexits syslog tar termios tgmath thread_db threads time ttyent uchar ucontext ulimit unistd unwind
utime utmp utmpx values varargs wait wchar wctype wordexp
"""
#: Libraries of C and the compilers, which a model's would be linked instead of.
_LIBRARIES = "anl asan atomic c dl gcc gcc_s gomp lsan m mvec nsl rt stdc tsan ubsan util z"
#: What functions of the system begin with that end in `_create`, `_destroy` or `_run`.
_FUNCTIONS = """
cnd epoll io mtx pthread_attr pthread_barrier pthread_cond pthread_key pthread_mutex pthread_rwlock
pthread_spin sem thrd timer timerfd tss
"""
_TAKEN = frozenset(f"{_HEADERS} {_LIBRARIES} {_FUNCTIONS}".split())

#: How long a name may be, so that those of files are at most 255 bytes.
_MAX_LENGTH = 240


@dataclass(frozen=True)
class Names:
    """What the names of a model's functions and constants begin with.

    Parameters
    ----------
    prefix : str
        An identifier in C, such as `mobilenet_v2`.
    """

    prefix: str

    @classmethod
    def of(cls, model: str) -> Names:
        """Return the names of a model, or of its ONNX file.

        They begin with `model_` if its own name begins with a digit, has no letter or digit of
        ASCII, or is one of the system's.

        Raises
        ------
        UserError
            If the name is too long.
        """
        words = re.sub(r"[^0-9A-Za-z]+", "_", model).strip("_").lower()
        if len(words) > _MAX_LENGTH:
            raise UserError(
                f"the model's name has {len(words)} characters, of which one in C may have "
                f"{_MAX_LENGTH}; rename its file"
            )
        own = words[:1].isalpha() and words not in _TAKEN
        return cls(words if own else f"model_{words}".rstrip("_"))

    @property
    def constants(self) -> str:
        """What the names of constants begin with."""
        return self.prefix.upper()

    @property
    def library(self) -> str:
        """The shared library's file name."""
        return f"lib{self.prefix}.so"

    @property
    def archive(self) -> str:
        """The static library's file name."""
        return f"lib{self.prefix}.a"

    @property
    def header(self) -> str:
        """The header's file name."""
        return f"{self.prefix}.h"

    @property
    def files(self) -> tuple[str, str, str]:
        """The names of all three."""
        return self.header, self.library, self.archive

    def kernel(self, function: str) -> str:
        """Return the symbol of a function that TVM compiles with this name."""
        return f"__tvm_ffi_{self.symbol(function)}"

    def symbol(self, function: str) -> str:
        """Return a function's name for TVM."""
        return f"{self.prefix}_{function}"
