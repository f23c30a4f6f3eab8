"""The command line: with ``commands`` the one place that prints, asks and exits.

Exit codes: 0 done, 1 finding (the injection was ineffective or harmful), 2 could not run, 130 interrupted.
Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from rosi_edge import __version__
from rosi_edge.commands.check import check
from rosi_edge.commands.evaluate import evaluate
from rosi_edge.commands.extract import extract
from rosi_edge.commands.harden import harden
from rosi_edge.commands.inspect import inspect
from rosi_edge.commands.output import COULD_NOT_RUN, INTERRUPTED
from rosi_edge.commands.study import study
from rosi_edge.commands.tui import tui
from rosi_edge.commands.verify import verify
from rosi_edge.errors import RosiEdgeError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rosi-edge")
def application() -> None:
    """Make a chat model inside a GGUF file refuse harmful requests, without training.

    MODEL is a path, hf:org/repo[:QUANT] or demo.
    """


for command in (inspect, extract, harden, evaluate, verify, check, study, tui):
    application.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit: the one error boundary."""

    def terminate(number: int, frame: object) -> NoReturn:
        # So that a polite kill cleans up as Ctrl-C does; a second one must not interrupt the cleaning up.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        code = application(standalone_mode=False)
    except SystemExit:
        # click's own way out when the reader of stdout went away, with the code that means a finding here.
        sys.exit(COULD_NOT_RUN)
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; nothing is left half-written", INTERRUPTED)
    except click.ClickException as error:
        _fail(f"{error.format_message().rstrip('.')}. See --help.", COULD_NOT_RUN)
    except RosiEdgeError as error:
        _fail(str(error), COULD_NOT_RUN)
    except BrokenPipeError:
        # The reader of stdout went away; Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(COULD_NOT_RUN)
    except MemoryError:
        _fail("there is not enough memory. Try a smaller -c or -b.", COULD_NOT_RUN)
    except Exception as error:
        if os.environ.get("ROSI_EDGE_DEBUG"):
            traceback.print_exc()
        _fail(
            f"unexpected {type(error).__name__}: {error}. "
            "This is a fault of rosi-edge; set ROSI_EDGE_DEBUG=1 for the details and report it.",
            COULD_NOT_RUN,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> NoReturn:
    click.echo("rosi-edge: " + " ".join(line.split()), err=True)
    sys.exit(code)
