"""`ddetr`: finds the verb, runs it, and turns errors into one line and an exit status.

This package stands beside `deformable_detr_refine`, not inside it: importing anything inside would first import torch
and transformers, and `ddetr --help` or a mistyped file name would take seconds to answer.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, NoReturn

DISTRIBUTION = "deformable-detr-refine"
PACKAGE = "deformable_detr_refine"
VERBS = {
    "train": "train or fine-tune a detector on a data set",
    "evaluate": "measure a detector on a data set, and write a report",
    "detect": "find objects in images, folders or URLs",
    "batch": "find objects in many images: folders, tables; resumes",
    "serve": "answer requests over HTTP, in the schema of Azure ML",
    "demo": "open a page that draws the boxes into your pictures",
    "convert": "turn a checkpoint of another code base into a model folder, or back",
    "verify": "compare a checkpoint's numbers with the real MMDetection",
    "data": "download, inspect and convert data sets",
    "export": "write a detector as ONNX, torch.export or MLflow, proved against the model",
    "push": "upload a detector to the Hub, with its model card",
    "info": "print a detector's family, classes, parameters and operations",
    "benchmark": "time a detector on this machine in every form it can have, and recommend one",
    "visualize": "draw where a detector looks, what it proposes and how it refines boxes",
    "doctor": "print versions, hardware and the operator backend that runs, and why",
}
EXIT_ERROR = 2
# The server ends by finishing its requests; what a training or a batch has finished is kept, and it ends at once.
ENDED_BY_THEMSELVES = ("train", "serve", "batch")
EXIT_BROKEN_PIPE = 141
_usual_format = warnings.formatwarning

DESCRIPTION = """\
Deformable DETR with box refinement and two stages: convert, check and use detectors.

example:
  ddetr convert checkpoint.pth detector
  ddetr detect detector photos/ --output found --draw
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `ddetr`.

    Returns:
        0; 1 when the command worked but the answer is no; 2 on an error that the user can mend, told in one line;
        130 after Ctrl-C, 143 after SIGTERM; 141 when the reader of the output went away. Other exceptions, which are
        bugs, pass through.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _shorten_waits()
    # Its client tells of every try to reach it again; what becomes of them is in the error.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    messages()["escape_what_cannot_be_printed"]()
    verb = next((argument for argument in argv if not argument.startswith("-")), None)
    _warn_in_a_line(verb)
    if verb not in ENDED_BY_THEMSELVES:
        _unwind_when_told_to_end()
    try:
        args = _parser(verb).parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        print(f"ddetr {verb}: interrupted", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:
        # Python flushes stdout once more at its end, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, OSError, ImportError) as error:
        print(f"ddetr {verb}: error: {error_sentence(error)}", file=sys.stderr)
        return EXIT_ERROR


def _shorten_waits() -> None:
    """Lets threads of PyTorch, before it is loaded, sleep soon where they wait for each other.

    By libgomp's own count they wait awake for milliseconds and take the cores of others. An image of the embedded
    detector took 390 to 480 ms on two threads beside two busy processes, with this count 130 to 155, alone 40 to 50 by
    either.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _warn_in_a_line(verb: str | None) -> None:
    """This package's warnings are sentences for the user, who needs no line of its source; others' stay as they are."""

    def formatted(message: Warning | str, category: type[Warning], filename: str, *where: Any) -> str:
        ours = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in (__package__, PACKAGE)]
        if category is UserWarning and filename in {getattr(module, "__file__", None) for module in ours}:
            return f"ddetr {verb}: warning: {' '.join(str(message).split())}\n"
        return _usual_format(message, category, filename, *where)

    warnings.formatwarning = formatted


def _unwind_when_told_to_end() -> None:
    """SIGTERM and the terminal's end do what Ctrl-C does: nothing half written is left. The second ends at once."""
    process = os.getpid()

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == process:
            raise KeyboardInterrupt(number)
        os.kill(os.getpid(), number)  # a forked child has nothing to unwind

    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
            if signal.getsignal(number) is signal.SIG_DFL:  # not where nohup has it ignored
                signal.signal(number, stop)


def error_sentence(error: BaseException) -> str:
    """An error's text in one line; system errors as 'FILE: REASON', without their number.

    Example:
        >>> error_sentence(ValueError("first\\n  second"))
        'first second'
        >>> error_sentence(PermissionError(13, "Permission denied", "out"))
        'out: Permission denied'
        >>> error_sentence(FileNotFoundError(2, "No such file or directory", "no/config.json"))
        'There is no file or folder no/config.json: check the path.'
        >>> error_sentence(ModuleNotFoundError("No module named 'torch'", name="torch"))
        'this needs torch: pip install deformable-detr-refine (without it .onnx files run, nothing else).'
    """
    if isinstance(error, ModuleNotFoundError):
        with suppress(ImportError):
            from deformable_detr_refine.modeling.without_torch import NEEDED, needs

            if error.name in NEEDED:
                return needs("this", error.name)
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename or "")
        if name and isinstance(error, FileNotFoundError):
            kinds = "file or folder" if os.path.dirname(name) else "file, folder or program"
            return f"There is no {kinds} {name}{messages()['near'](name)}"
        return f"{name}: {error.strerror}" if name else error.strerror
    return messages()["one_line"](error)


def messages() -> dict[str, Any]:
    """What deformable_detr_refine.messages defines, without the import of its package, which takes seconds."""
    spec = find_spec(PACKAGE)
    return run_path(str(Path((spec and spec.origin) or ".").parent / "messages.py"))


class Parser(argparse.ArgumentParser):
    """argparse's, and so each verb's; what is wrong is one line, which begins with the verb that it is said of."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        namespace, unknown = super().parse_known_args(*given, **named)
        if unknown:
            near = get_close_matches(unknown[0], self._option_string_actions, 1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: error: {error_sentence(ValueError(message))} (see: {self.prog} --help)\n")


def _parser(verb: str | None) -> Parser:
    parser = Parser(prog="ddetr", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"ddetr {version(DISTRIBUTION)}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, text in VERBS.items():
        if name == verb:
            add_verb(subparsers, name)
        else:
            subparsers.add_parser(name, help=text)
    return parser


def add_verb(subparsers: Any, name: str) -> None:
    """Adds a verb's parser, with the texts and arguments of its file."""
    verb = import_module(f"{__package__}.{name}")
    parser = subparsers.add_parser(
        name,
        help=VERBS[name],
        description=verb.DESCRIPTION,
        epilog=getattr(verb, "EXAMPLES", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **getattr(verb, "PARSER", {}),
    )
    parser.set_defaults(run=verb.run)
    verb.add_arguments(parser)


if __name__ == "__main__":
    sys.exit(main())
