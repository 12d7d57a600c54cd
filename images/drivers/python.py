"""Runs one Python program for Execgate.

The sandbox agent starts this file with descriptor 3 as the reading end of a pipe, and sends one
JSON object through it, ended by EOF:

    {"code": str, "input": any, "env": {name: value}, "result": "/path/for/the/result"}

"input" may be absent. Descriptors 0, 1 and 2 are the program's. What the program binds to the
name `result` is written to the result path as JSON; if JSON cannot hold it, one line that says
what to do goes to that path + ".error" instead.

An interpreter can be parked: started ahead of its job, with modules to import as arguments. The
variable EXECGATE_READY then names a descriptor on which it writes P when it waits for the job and
T when it has it.

Nothing heavy is imported here: `_json` is the C half of `json`, without the 6 ms that `re` costs.
"""

import atexit
import builtins
import gc
import io
import os
import sys
from _json import encode_basestring, make_encoder, make_scanner

JOB_FD = 3
READY = "EXECGATE_READY"
WORKSPACE = "/workspace"
FILENAME = "main.py"
BAKED_MATPLOTLIB = "/opt/execgate/matplotlib"
DRIVER_FAULT = 70  # EX_SOFTWARE: the job could not be taken; never the program's own doing


def main(preload):
    write_through()
    sys.meta_path.insert(0, ImportHooks)
    for name in preload:
        try:
            __import__(name)
        except Exception:
            pass  # a program that wants the module will meet the same error, with its own line
    gc.freeze()  # what is there by now need not be looked through again
    ready = os.environ.pop(READY, None)
    try:
        if ready is not None:
            os.write(int(ready), b"P")
        job = read_job()
        if ready is not None:
            os.write(int(ready), b"T" if job else b"")
            os.close(int(ready))
    except Exception as error:
        print(f"execgate: the job could not be read: {error!r}", file=sys.stderr)
        return DRIVER_FAULT
    if job is None:
        return 0  # parked, and never needed
    return run(job)


def read_job():
    """Returns the job, or None if the pipe was closed without one."""
    with io.FileIO(JOB_FD) as pipe:
        text = pipe.readall().decode().strip()
    if not text:
        return None
    try:
        job, end = make_scanner(Decoding)(text, 0)
    except StopIteration:
        raise ValueError("not a JSON object") from None
    if end != len(text) or not isinstance(job, dict):
        raise ValueError("not one JSON object")
    return job


class Decoding:
    """What `json.JSONDecoder` hands to its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def run(job):
    """Runs the program and returns its exit status."""
    source, result_path, env = job["code"], job["result"], job.get("env") or {}
    os.environ.update(env)
    if "TZ" in env:
        import time

        time.tzset()
    os.chdir(WORKSPACE)
    sys.path.insert(0, WORKSPACE)
    sys.argv = [FILENAME]
    SourceLines.of(source)

    module = type(sys)("__main__")
    names = vars(module)
    names.update(
        __builtins__=builtins, __file__=FILENAME, INPUT_DATA=job.get("input")
    )
    sys.modules["__main__"] = module

    pid = os.getpid()
    job = env = None
    status = execute(source, names)
    join_threads()
    # A child that the program forked comes by here too; the result is its parent's to give.
    if "result" in names and os.getpid() == pid:
        write_result(names["result"], result_path)
    finish(names)
    return status


def finish(names):
    """Does what the interpreter would do for the program on its way out. The rest of that way
    takes 30 ms with pandas loaded, and does nothing for anybody."""
    atexit._run_exitfuncs()
    names.clear()  # closes files, which writes what they hold
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(WORKSPACE + "/"):
            vars(module).clear()
    gc.collect()


def execute(source, names):
    try:
        exec(compile_program(source), names)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # Our own frames are none of the program's business.
        while error.__traceback__ and error.__traceback__.tb_frame.f_globals is globals():
            error.__traceback__ = error.__traceback__.tb_next
        report(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def compile_program(source):
    try:
        return compile(source, FILENAME, "exec", dont_inherit=True)
    except SyntaxError as error:
        lines = SourceLines.entry[2]
        if error.lineno and error.lineno <= len(lines):
            error.text = lines[error.lineno - 1]  # not that of a file of the same name
        raise


def report(error):
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as broken:  # the program's own hook; in the interpreter's words
        print("Error in sys.excepthook:", file=sys.stderr)
        broken.__traceback__ = broken.__traceback__.tb_next
        broken.__context__ = None
        sys.__excepthook__(type(broken), broken, broken.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)


def join_threads():
    """Waits for non-daemon threads, as the interpreter would only after us, so that what they
    add to `result` counts."""
    threading = sys.modules.get("threading")
    if threading is not None:
        try:
            threading._shutdown()
        except BaseException as error:
            report(error)


# Output


class WriteThrough(io.BufferedWriter):
    """Hands each write to the system at once: a program that is killed has lost nothing. Unlike
    `python -u` it keeps writing where the system took only a part."""

    def write(self, data):
        count = super().write(data)
        self.flush()
        return count


def write_through():
    for name, errors in (("stdout", "surrogateescape"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            continue
        stream = io.TextIOWrapper(
            WriteThrough(stream.detach().detach()),
            encoding="utf-8",
            errors=errors,
            newline="\n",
            write_through=True,
        )
        stream.mode = "w"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# Imports that need help


class ImportHooks:
    """A finder that finds nothing, and acts when certain modules are first imported: what they
    need costs a program that does without them one look-up an import."""

    before = {}
    after = {}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        act = cls.before.pop(name, None)
        if act is not None:
            act()
        act = cls.after.pop(name, None)
        if act is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is cls else finder.find_spec(name, path, target)
            if spec is not None:
                cls.call_after(spec.loader, act)
                return spec
        return None

    @staticmethod
    def call_after(loader, act):
        execute_module = loader.exec_module

        def exec_module(module):
            execute_module(module)
            act(module)

        loader.exec_module = exec_module


class SourceLines:
    """Gives linecache the program's text, which is in no file, for its tracebacks. A file of the
    same name in the workspace would be shown instead if this waited for a loader to be asked."""

    entry = None

    @classmethod
    def of(cls, source):
        lines = io.StringIO(source, newline=None).readlines()
        cls.entry = (len(source), None, lines, FILENAME)
        linecache = sys.modules.get("linecache")
        if linecache is not None:
            cls.give(linecache)

    @classmethod
    def give(cls, linecache):
        if cls.entry is not None:
            linecache.cache[FILENAME] = cls.entry


def prepare_matplotlib():
    """Points matplotlib at a writable copy of the baked cache: it complains on stderr about one
    that it cannot write, and needs 2 s to make its own."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    if "MPLCONFIGDIR" in os.environ or not os.path.isdir(BAKED_MATPLOTLIB):
        return
    folder = f"/tmp/matplotlib-{os.getuid()}"
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(BAKED_MATPLOTLIB):
            with open(f"{BAKED_MATPLOTLIB}/{name}", "rb") as baked:
                with open(f"{folder}/{name}", "wb") as copy:
                    copy.write(baked.read())
    except OSError:
        pass  # a full /tmp: matplotlib says so itself
    os.environ["MPLCONFIGDIR"] = folder


def save_figures(backend_bases):
    """Makes showing a figure save it where artifacts are collected."""
    folder = f"{WORKSPACE}/out"

    def show(self):
        from matplotlib._pylab_helpers import Gcf

        Gcf.destroy(self)  # as if its window had been closed: the next plt.show() shows others
        os.makedirs(folder, exist_ok=True)
        number = 1
        while True:
            try:
                file = open(f"{folder}/figure-{number}.png", "xb")
                break
            except FileExistsError:
                number += 1
        with file:
            self.canvas.figure.savefig(file, format="png")

    backend_bases.FigureManagerBase.show = show


ImportHooks.before["matplotlib"] = prepare_matplotlib
ImportHooks.after["matplotlib.backend_bases"] = save_figures
ImportHooks.after["linecache"] = SourceLines.give


# The result


class NotJSON(Exception):
    """Its text is for the program's author: what is wrong, and what to do."""


def write_result(value, path):
    try:
        data = encode(value)
    except BaseException as error:
        write_file(f"{path}.error", explain(error))
        return
    try:
        write_file(path, data)
    except OSError as error:
        write_file(path, b"")
        write_file(f"{path}.error", explain(NotJSON(f"result could not be written: {error}")))


def encode(value):
    encoder = make_encoder(
        {}, plain, encode_basestring, None, ": ", ", ", False, False, False
    )
    return "".join(encoder(value, 0)).encode()


def plain(value):
    """Returns the plain form of a numpy or pandas value; the encoder asks for what it does not
    know. Dates are refused: numpy's plain form of them is a bare count of nanoseconds. So is a
    plain form that is not plain: a mock would go on giving new ones until memory ends."""
    dated = getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")
    if not dated and not isinstance(value, type):
        for name in ("tolist", "item"):
            convert = getattr(value, name, None)
            if callable(convert):
                value = convert()
                if value is None or isinstance(value, (bool, int, float, str, list)):
                    return value
                break
    raise NotJSON(
        f"result holds a value of type {type(value).__name__}, which JSON cannot hold: "
        + ("use .astype(str)" if dated else advice(value))
    )


def advice(value):
    for name, text in (
        ("to_dict", "use .to_dict()"),
        ("isoformat", "use .isoformat()"),
        ("savefig", f"save it with .savefig() to a file in {WORKSPACE}/out"),
        ("__dataclass_fields__", "use dataclasses.asdict()"),
        ("__fspath__", "use str()"),
    ):
        if hasattr(value, name):
            return text
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "use text, from .decode() or base64.b64encode(...).decode()"
    if isinstance(value, (set, frozenset)):
        return "use a list, such as sorted(...)"
    if hasattr(value, "__float__") or isinstance(value, complex):
        return "use float(), abs() or str()"
    if hasattr(value, "__next__") or (hasattr(value, "__iter__") and not hasattr(value, "keys")):
        return "use list(...)"
    return "use numbers, text, lists and dicts"


def explain(error):
    text = str(error)
    if isinstance(error, NotJSON):
        pass
    elif isinstance(error, RecursionError):
        text = "result is nested too deeply for JSON: make it flatter"
    elif isinstance(error, UnicodeEncodeError):
        text = "result holds text that is not valid Unicode: use .encode(errors='replace').decode()"
    elif isinstance(error, ValueError) and text.startswith("Out of range float"):
        text = "result holds NaN or Infinity, which JSON cannot hold: use None in its place"
    elif isinstance(error, ValueError) and text.startswith("Circular"):
        text = "result contains itself, which JSON cannot hold: use a copy without the cycle"
    elif isinstance(error, TypeError) and text.startswith("keys must be"):
        text = f"result has a dict whose {text}: use str(key) for its keys"
    else:
        text = f"result could not be made JSON: {type(error).__name__}: {text}"
    return " ".join(text.split())[:1000].encode("utf-8", "replace")


def write_file(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        # Whatever umask the program set: the agent may be another user, without capabilities.
        os.fchmod(fd, 0o644)
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def leave(status):
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed, by the program or by whoever reads it
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
