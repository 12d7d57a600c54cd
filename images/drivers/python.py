"""Runs Python programs for Execgate.

The sandbox agent starts this file with descriptor 3 as the reading end of a pipe, and sends a job
through it: one JSON object on one line, ended by a newline or by EOF:

    {"code": str, "input": any, "env": {name: value}, "result": "/path", "session": bool}

"input" and "session" may be absent. Descriptors 0, 1 and 2 are the program's. What the program
binds to the name `result` is written to the result path as JSON; if JSON cannot hold it, one line
that says what to do goes to that path + ".error" instead.

An interpreter can be parked: started ahead of its job, with modules to import as arguments. The
variable EXECGATE_READY then names a descriptor on which it writes P when it waits for the job and
T when it has it, and D and the exit status, one byte, when the program is over. In a session it
stays, and waits for the next job then. As a fork server, which EXECGATE_FORK asks for, it is parked
once and becomes many programs, each in a copy of it.

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
FORK = "EXECGATE_FORK"
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
    Own.modules = frozenset(sys.modules)
    ready = os.environ.pop(READY, None)
    if ready is not None:
        ready = int(ready)
    fork = os.environ.pop(FORK, None)
    if fork is not None:
        ready = become_program(int(fork), ready)
    try:
        if ready is not None and fork is None:
            os.write(ready, b"P")
        job = read_job()
        stays = job is not None and job.get("session")
        if not stays:
            os.close(JOB_FD)
            if ready is not None and job:
                Over.descriptor, Over.owner = ready, os.getpid()
                os.set_inheritable(ready, False)
                os.write(ready, b"T")
    except Exception as error:
        return fail("the job could not be read", error)
    if job is None:
        return 0  # parked, and never needed
    return stay(job, ready) if stays else run(job)


def fail(what, error):
    print(f"execgate: {what}: {error!r}", file=sys.stderr)
    return DRIVER_FAULT


unread = b""  # of descriptor 3


def read_job():
    """Returns the next job, or None if the pipe was closed without one."""
    global unread
    parts, part = [], unread
    while b"\n" not in part:
        parts.append(part)
        part = os.read(JOB_FD, 65536)
        if not part:
            break
    line, _, unread = part.partition(b"\n")
    parts.append(line)
    text = b"".join(parts).decode().strip()
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
    source, result_path = job["code"], job["result"]
    set_environment(job.get("env") or {})
    names = new_main()
    prepare(names, FILENAME, source, job.get("input"))

    pid = os.getpid()
    job = None
    status = execute(source, FILENAME, names)
    join_threads()
    # A child that the program forked comes by here too; the result is its parent's to give.
    if "result" in names and os.getpid() == pid:
        write_result(names["result"], result_path)
    finish(names)
    return status


def new_main():
    """Returns the names of a new module __main__."""
    sys.path.insert(0, WORKSPACE)
    module = sys.modules["__main__"] = type(sys)("__main__")
    names = vars(module)
    names["__builtins__"] = builtins
    return names


def prepare(names, filename, source, value):
    os.chdir(WORKSPACE)
    sys.argv = [filename]
    SourceLines.add(filename, source)
    names.update(__file__=filename, INPUT_DATA=value)


def set_environment(env):
    """Sets variables, where None stands for none, and returns what they were."""
    before = {name: os.environ.get(name) for name in env}
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in env:
        import time

        time.tzset()
    return before


class Own:
    """The names of the modules that were there before any program: none of them is a program's,
    and to look at each costs 0.4 ms with pandas loaded."""

    modules = frozenset()


def finish(names):
    """Does what the interpreter would do for the program on its way out. The rest of that way
    takes 30 ms with pandas loaded, and does nothing for anybody."""
    atexit._run_exitfuncs()
    names.clear()  # closes files, which writes what they hold
    for name in sys.modules.keys() - Own.modules:
        module = sys.modules[name]
        if (getattr(module, "__file__", None) or "").startswith(WORKSPACE + "/"):
            vars(module).clear()
    gc.collect()


def execute(source, filename, names):
    try:
        exec(compile_program(source, filename), names)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        error.__traceback__ = without_driver(error.__traceback__)
        report(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def without_driver(traceback):
    """Our own frames, such as that of a write, are none of the program's business."""
    ours = lambda entry: entry is not None and entry.tb_frame.f_globals is globals()
    while ours(traceback):
        traceback = traceback.tb_next
    entry = traceback
    while entry is not None:
        while ours(entry.tb_next):
            entry.tb_next = entry.tb_next.tb_next
        entry = entry.tb_next
    return traceback


def compile_program(source, filename):
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        lines = SourceLines.entries[filename][2]
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


# Sessions


class Interrupts:
    """The handler of SIGINT while no program runs: it only notes that one came."""

    noted = False

    @classmethod
    def note(cls, number, frame):
        cls.noted = True


def stay(job, ready):
    """Runs one job after another, until the pipe is closed, with the names that those before it
    bound. Returns the exit status of the interpreter."""
    from _signal import SIGINT, signal

    signal(SIGINT, Interrupts.note)
    os.environ.pop("EXECGATE_SESSION", None)
    descriptors = [JOB_FD] if ready is None else [JOB_FD, ready]
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        # What a program forks must not hold them either.
        os.register_at_fork(after_in_child=lambda: close_all(descriptors))
        if ready is not None:
            os.set_blocking(ready, False)  # whoever fills it up must not make the driver wait
        return run_jobs(job, ready)
    except Exception as error:
        return fail("the session is lost", error)


def run_jobs(job, ready):
    pid, names, number = os.getpid(), new_main(), 0
    while job is not None:
        number += 1
        Interrupts.noted = False
        tell(ready, b"T")
        status = run_in_session(job, names, number)
        if os.getpid() != pid:  # a child that the program forked
            join_threads()
            finish(names)
            return status
        tell(ready, bytes((ord("D"), (status or 0) & 0xFF)))
        job = None
        os.set_blocking(JOB_FD, True)  # whatever the program did to it
        job = read_job()
    finish(names)
    return 0


def tell(ready, word):
    if ready is not None:
        os.write(ready, word)


def close_all(descriptors):
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass  # the program's own doing


def run_in_session(job, names, number):
    """Runs the program and returns its exit status. An interrupt ends the program, wherever it
    arrives from the taking of the job to the end of this."""
    from _signal import ITIMER_REAL, SIGINT, default_int_handler, setitimer, signal

    source, result_path, pid = job["code"], job["result"], os.getpid()
    # A traceback through a function of an earlier job must show that job's lines.
    filename = FILENAME if number == 1 else f"main-{number}.py"
    names.pop("result", None)
    before = set_environment(job.get("env") or {})
    prepare(names, filename, source, job.get("input"))
    renew_stdin()
    job = None
    try:
        signal(SIGINT, default_int_handler)
        if Interrupts.noted:
            raise KeyboardInterrupt
        status = execute(source, filename, names)
        if os.getpid() != pid:
            return status
        if "result" in names:
            write_result(names["result"], result_path)
        flush()
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        status = 1
    # Setting a handler calls the one before for what has come meanwhile, which may raise again.
    try:
        try:
            signal(SIGINT, Interrupts.note)
        except BaseException:
            signal(SIGINT, Interrupts.note)
    except BaseException:
        signal(SIGINT, Interrupts.note)
    setitimer(ITIMER_REAL, 0)  # an alarm that was set for this program is not for the next
    set_environment(before)
    return status


def renew_stdin():
    """Descriptor 0 is a file that was filled anew: what was read ahead of it is stale."""
    try:
        stream = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
        stream.buffer.raw.name = "<stdin>"
    except OSError:
        stream = None  # closed by a program, and so as if there were none
    sys.stdin = sys.__stdin__ = stream


# The fork server


def become_program(control, ready):
    """Waits for programs to run, and returns in a process that has one to run, under a user of its
    own and with nothing of this server. Returns the descriptor that is EXECGATE_READY to it.

    The server is one process that waits, and its successor, which does so once the first has taken
    a program or has died. So whatever a program does to its process, the server is another one, of
    another user."""
    import _socket
    import resource  # once, for drop_privileges in each program

    try:
        forget_matplotlib()
        libc = load_libc()
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, control)
        while True:
            successor = fork_successor()
            if successor is not None:
                break
        os.write(ready, b"P")
        message, ancillary, flags, _ = socket.recvmsg(
            1 << 16, _socket.CMSG_SPACE(5 * 4), _socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            os.write(successor, b"E")
            os._exit(0)
        socket.detach()
        os.write(successor, b"G")
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("the message does not fit")
        order, end = make_scanner(Decoding)(message.decode(), 0)
        descriptors = memoryview(ancillary[0][2]).cast("i").tolist()
        take_descriptors(descriptors)
        drop_privileges(libc, order["uid"], order["pids"])
        os.environ.clear()
        for name, value in order["env"]:
            os.environ[name] = value
        renew_copies()
    except BaseException as error:
        try:
            print(f"execgate: the program could not be started: {error!r}", file=sys.stderr)
        finally:
            os._exit(DRIVER_FAULT)
    return 4


def fork_successor():
    """Forks the process that waits next. Returns the descriptor that it waits on, or None in it,
    once the one before has taken a program or died.

    Its parent is gone at once, so that it is process 1's child and no program's to wait for."""
    reading, writing = os.pipe()
    while not fork_grandchild():
        # Programs hold as many processes as the sandbox may have, and nothing tells when one ends.
        import time

        time.sleep(0.05)
    if Successor.is_this:
        Successor.is_this = False
        os.close(writing)
        os.setsid()
        word = os.read(reading, 1)
        os.close(reading)
        if word == b"E":
            os._exit(0)
        return None
    os.close(reading)
    return writing


class Successor:
    is_this = False


def fork_grandchild():
    """Returns whether a grandchild was made; it is called in both, and Successor tells which."""
    try:
        child = os.fork()
    except OSError:
        return False
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    Successor.is_this = True
    return True


def take_descriptors(descriptors):
    """Makes these five 0 to 4, and closes all others."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    if len(descriptors) != 5:
        raise ValueError("there must be 5 descriptors")
    above = [fcntl(descriptor, F_DUPFD_CLOEXEC, 5) for descriptor in descriptors]
    for number, descriptor in enumerate(above):
        os.dup2(descriptor, number, inheritable=number < JOB_FD)
    os.closerange(5, os.sysconf("SC_OPEN_MAX"))


CAPABILITIES = (5, 6, 7, 8)  # KILL, SETGID, SETUID, SETPCAP: all that the server has
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24


def load_libc():
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    # capset(2): version 3, this process, and two sets of three words without a bit.
    libc.no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return libc


def drop_privileges(libc, uid, processes):
    from resource import RLIMIT_NPROC, setrlimit  # loaded by then

    def check(returned):
        if returned != 0:
            raise OSError("a privilege could not be dropped")

    if type(uid) is not int or uid < 1000:
        raise ValueError("not the user of a program")
    os.umask(0o022)
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"1000")
    os.close(fd)
    setrlimit(RLIMIT_NPROC, (processes, processes))
    for capability in CAPABILITIES:
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    check(libc.capset(*libc.no_capabilities))  # the inheritable ones outlive a change of user
    # What a process started anew would be; without, its own files in /proc are not its own.
    check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def renew_copies():
    """What is to be another in each program: random numbers, files of its user's, its input."""
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()
    if "matplotlib" in sys.modules:
        prepare_matplotlib(sys.modules["matplotlib"].get_configdir())
    renew_stdin()


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
    """Gives linecache the programs' texts, which are in no files, for their tracebacks. A file of
    the same name in the workspace would be shown instead if this waited for a loader to be asked."""

    entries = {}

    @classmethod
    def add(cls, filename, source):
        lines = io.StringIO(source, newline=None).readlines()
        cls.entries[filename] = (len(source), None, lines, filename)
        linecache = sys.modules.get("linecache")
        if linecache is not None:
            cls.give(linecache)

    @classmethod
    def give(cls, linecache):
        linecache.cache.update(cls.entries)


def prepare_matplotlib(folder=None):
    """Points matplotlib at a writable copy of the baked cache: it complains on stderr about one
    that it cannot write, and needs 2 s to make its own."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    if "MPLCONFIGDIR" in os.environ or not os.path.isdir(BAKED_MATPLOTLIB):
        return
    folder = folder or f"/tmp/matplotlib-{os.getuid()}"
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(BAKED_MATPLOTLIB):
            with open(f"{BAKED_MATPLOTLIB}/{name}", "rb") as baked:
                with open(f"{folder}/{name}", "wb") as copy:
                    copy.write(baked.read())
    except OSError:
        pass  # a full /tmp: matplotlib says so itself
    os.environ["MPLCONFIGDIR"] = folder


def forget_matplotlib():
    """Removes the copy that matplotlib was preloaded with: each program makes its own, as its own
    user, where matplotlib will go on looking for it."""
    folder = os.environ.get("MPLCONFIGDIR")
    if "matplotlib" not in sys.modules or folder is None:
        return
    for name in os.listdir(folder):
        os.remove(f"{folder}/{name}")
    os.rmdir(folder)


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


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed, by the program or by whoever reads it


class Over:
    """Where a parked driver says that its program is over, and which process may: not a child of
    the program. With pandas loaded the system takes 7 ms to take the memory apart, which is only
    then done, and nobody has to wait for it."""

    descriptor = None
    owner = None


def leave(status):
    flush()
    status = (status or 0) & 0xFF
    if Over.descriptor is not None and os.getpid() == Over.owner:
        # Whoever reads the program's output sees its end.
        os.closerange(0, Over.descriptor)
        os.closerange(Over.descriptor + 1, 1 << 20)
        os.write(Over.descriptor, bytes((ord("D"), status)))
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
