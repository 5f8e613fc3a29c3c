"""The command line: parse, call, print. No logic lives here.

Imports are made inside the commands: ``streamer --help`` answers at once and loads nothing heavy.
"""

from __future__ import annotations

import json
import logging
import sys

import click

from streamer import __version__
from streamer.cli import ask, build, exchange, group, learn, look
from streamer.cli.serve import serve
from streamer.errors import ExitCode, StreamerError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with one of the codes of `streamer.errors.ExitCode`."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(given, prog_name="streamer", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        code = ExitCode.USAGE
    except click.ClickException as error:
        where = f"{error.ctx.command_path}: " if isinstance(error, click.UsageError) and error.ctx else ""
        code = _fail(given, f"{where}{error.format_message()}", ExitCode.USAGE)
    except StreamerError as error:
        code = _fail(given, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail(given, "interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `streamer failures STORE | head`
        sys.stderr.close()
        code = ExitCode.DONE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = _fail(given, f"{place}{error.strerror or error}", ExitCode.FAILED)
    except Exception as error:  # the exit code and the JSON object are promised whatever happens
        logging.getLogger(__name__).debug("", exc_info=True)
        code = _fail(given, f"{type(error).__name__}: {error} (unforeseen; --verbose shows where)", ExitCode.FAILED)
    sys.exit(code)


def _fail(arguments: list[str], message: str, code: int) -> int:
    """Say what went wrong: on stderr for people, and as the one JSON object where that was asked for."""
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    click.echo(f"streamer: {message}", err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamer")
def cli() -> None:
    """Turn a library of photos into a feature store and a search index, inside a memory budget.

    Exit codes: 0 done; 1 failed; 2 wrong usage or config; 3 done, some images could not be read; 10 no store there;
    11 another run holds the lock; 12 the memory budget is too small; 130 interrupted.
    """


for each in (
    *(build.run, build.extract, build.reduce, build.index),
    *(ask.search, ask.evaluate),
    *(group.duplicates, group.clusters),
    *(learn.train, learn.predict),
    *(exchange.export_, exchange.import_),
    *(exchange.push, exchange.pull),
    *(look.info, look.failures, look.check, look.compact),
    *(look.models, look.weights),
    serve,
    build.demo,
):
    cli.add_command(each)
