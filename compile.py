"""`python compile.py ...` is `mobilenet-tvm compile ...`."""

import sys
from importlib.util import find_spec

if find_spec("mobilenet_tvm") is None:
    sys.exit("error: mobilenet-tvm is not installed here; run: pip install .")

from mobilenet_tvm.compile.cli.main import main

if __name__ == "__main__":
    main(["compile", *sys.argv[1:]])
