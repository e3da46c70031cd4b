"""A process that has imported the heavy libraries once and forks a child for every execution.

Importing torch, transformers and trl takes 5 to 10 seconds; forking takes milliseconds. The server runs no torch
operation and starts no thread before it forks, so that a child begins as clean as a fresh process.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress

from kilter.processes import die_with_parent

_MESSAGE_BYTES = 1 << 20


def serve(connection: socket.socket, modules: "list[str]") -> None:
    """Import `modules`, then fork a child for every message until the other side closes.

    A module written `module:function` has its function called too.
    """
    _import(modules)
    gc.freeze()  # children share these pages until they write to them
    connection.send(json.dumps({"ready": True}).encode())
    children: dict[int, int] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    signal.set_wakeup_fd(wake_write)
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    while True:
        for selected, _ in selector.select():
            if selected.fileobj is connection:
                message, descriptors, _flags, _address = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
                if not message:
                    return
                task = json.loads(message)
                server = os.getpid()
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    _child(task, descriptors[0], connection, server)
                os.close(descriptors[0])
                children[pid] = task["id"]
                connection.send(json.dumps({"id": task["id"], "pid": pid}).encode())
            else:
                with suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                _reap(children, connection)


def _reap(children: "dict[int, int]", connection: socket.socket) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        connection.send(json.dumps({"id": children.pop(pid), "status": os.waitstatus_to_exitcode(status)}).encode())


def _import(modules: "list[str]") -> None:
    for name in modules:
        module, _, function = name.partition(":")
        try:
            imported = importlib.import_module(module)
            if function:
                getattr(imported, function)()
        except (
            Exception
        ) as error:  # a library that is missing or broken fails the stages that need it, with its own message
            print(f"could not import {name} beforehand: {error}", file=sys.stderr)


def _child(task: "dict[str, object]", events: int, connection: socket.socket, server: int) -> None:
    """Become the execution: output into its log, events into their pipe, then run the command. Never returns."""
    code = 1
    try:
        die_with_parent(server)
        connection.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(str(task["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["KILTER_EVENTS_FD"] = str(events)
        from kilter.cli.main import main

        arguments = task["arguments"]
        code = main([str(argument) for argument in arguments] if isinstance(arguments, list) else [])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # nothing may return into the server's loop
        import traceback

        traceback.print_exception(error)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve on the socket whose descriptor is the first argument; the rest are modules to import."""
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection, sys.argv[3:])


if __name__ == "__main__":
    main()
