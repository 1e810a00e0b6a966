"""The command line: the group of all commands, and how errors and interrupts end it."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType

import click

from mobilenet_tvm.compile.cli.bench import bench
from mobilenet_tvm.compile.cli.bundle import bundle
from mobilenet_tvm.compile.cli.compile import compile_command
from mobilenet_tvm.compile.cli.devices import devices, serve, tracker
from mobilenet_tvm.compile.cli.evaluate import evaluate
from mobilenet_tvm.compile.cli.listing import models, targets
from mobilenet_tvm.compile.cli.logs import logs
from mobilenet_tvm.compile.cli.opencl import opencl
from mobilenet_tvm.compile.cli.output import echo
from mobilenet_tvm.compile.cli.profile import profile
from mobilenet_tvm.compile.cli.prune import prune
from mobilenet_tvm.compile.cli.quantize import quantize
from mobilenet_tvm.compile.cli.report import report
from mobilenet_tvm.compile.cli.signals import end_in_time
from mobilenet_tvm.compile.cli.tune import tune
from mobilenet_tvm.compile.cli.verify import verify
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.printable import PrintableFormatter

#: Seconds that a command has to clean up after a signal.
_GRACE_PERIOD = 3.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 2 wrong use, 1 anything else."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    interrupts: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        # TVM turns an exception that passes through it into one of its own.
        interrupts.append(number)
        raise KeyboardInterrupt

    # After either signal temporary files are removed, and outputs stay as they were.
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        with end_in_time(_GRACE_PERIOD):
            status = cli.main(
                [argument for argument in arguments if argument != "--debug"],
                prog_name="mobilenet-tvm",
                standalone_mode=False,
            )
    except click.ClickException as error:
        _fail(f"{error.format_message()} (see mobilenet-tvm --help)", error.exit_code)
    except click.Abort:
        _fail("interrupted", 1)
    except UserError as error:
        if interrupts:
            # Cleaning up may fail in turn, as where a temporary file is removed twice.
            _fail("interrupted", 1)
        if debug:
            traceback.print_exc()
        _fail(str(error), 2 if isinstance(error, WrongUseError) else 1)
    except Exception as error:
        if interrupts:
            _fail("interrupted", 1)
        if debug:
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        _fail(f"{type(error).__name__}: {reason.strip()} (--debug shows where)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("mobilenet-tvm"), prog_name="mobilenet-tvm")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Compile MobileNets into fast shared libraries through Apache TVM."""


for command in (
    bench,
    bundle,
    compile_command,
    devices,
    evaluate,
    logs,
    models,
    opencl,
    profile,
    prune,
    quantize,
    report,
    serve,
    targets,
    tracker,
    tune,
    verify,
):
    cli.add_command(command)

if __name__ == "__main__":
    main()
