'use strict';
/*
Runs JavaScript programs for Execgate.

The sandbox agent starts this file, through drivers/javascript, with descriptor 3 as the reading
end of a pipe, and sends a job through it: one JSON object on one line, ended by a newline or EOF:

    {"code": str, "input": any, "env": {name: value}, "result": "/path", "session": bool}

"input" and "session" may be absent. Descriptors 0, 1 and 2 are the program's. The program is a
script in sloppy mode; what it binds to the name `result` is written to the result path as JSON once
nothing is left to wait for. If JSON cannot hold it, one line that says what to do goes to that
path + ".error" instead.

An interpreter can be parked: started ahead of its job, with modules to require as arguments. The
variable EXECGATE_READY then names a descriptor on which it writes P when it waits for the job and
T when it has it. In a session it stays: it writes D and the exit status, one byte, when a program
has ended, and waits for the next job.
*/

const fs = require('fs');
const Module = require('module');
const vm = require('vm');
const { inspect, promisify, types } = require('util');
// Held, because the program may put others in their place.
const { parse, stringify } = JSON;
const { closeSync, fchmodSync, openSync, readSync, writeSync } = fs;
const { exit } = process;
const { clearImmediate, clearTimeout, setImmediate, setTimeout } = globalThis;

const JOB_FD = 3;
const READY = 'EXECGATE_READY';
const WORKSPACE = '/workspace';
const FILENAME = 'main.js';
const INTERRUPTED = 130; // as in a shell, for SIGINT
const DRIVER_FAULT = 70; // EX_SOFTWARE: the job could not be taken; never the program's own doing

function main(preload) {
  writeThrough();
  for (const name of preload) {
    try {
      require(name);
    } catch {
      // A program that wants the module will meet the same error, with its own line.
    }
  }
  const ready = process.env[READY] === undefined ? undefined : Number(process.env[READY]);
  delete process.env[READY];
  let job;
  try {
    if (ready !== undefined) writeSync(ready, 'P');
    job = readJob();
    if (!job?.session) {
      closeSync(JOB_FD);
      if (ready !== undefined) {
        if (job !== null) writeSync(ready, 'T');
        closeSync(ready);
      }
    }
  } catch (error) {
    console.error(`execgate: the job could not be read: ${error}`);
    exit(DRIVER_FAULT);
  }
  if (job?.session) stay(job, ready);
  else if (job !== null) run(job);
}

let unread = Buffer.alloc(0); // of descriptor 3

// Returns the next job, or null if the pipe was closed without one.
function readJob() {
  const parts = [];
  let part = unread;
  let end;
  while ((end = part.indexOf('\n')) < 0) {
    parts.push(part);
    part = readSome(Buffer.allocUnsafe(1 << 16));
    if (part.length === 0) break;
  }
  parts.push(part.subarray(0, Math.max(end, 0)));
  unread = part.subarray(Math.max(end, 0) + 1);
  const text = Buffer.concat(parts).toString().trim();
  if (text === '') return null;
  const job = parse(text);
  if (typeof job?.code !== 'string' || typeof job.result !== 'string') {
    throw new TypeError('not a JSON object with code and result');
  }
  return job;
}

function readSome(buffer) {
  for (;;) {
    try {
      return buffer.subarray(0, readSync(JOB_FD, buffer));
    } catch (error) {
      if (error.code !== 'EINTR') throw error;
    }
  }
}

// Makes the streams keep a write until the system has taken all of it: a program that exits or is
// killed has lost nothing. Node's own pipes keep what did not fit in memory.
function writeThrough() {
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
}

function run(job) {
  Object.assign(process.env, job.env);
  makeMain();
  globalThis.INPUT_DATA = job.input ?? null;
  const result = resultAt(job.result);
  process.on('beforeExit', result.settled);
  process.on('exit', result.give);
  process.nextTick(...script(job.code, FILENAME));
}

// Returns what makes node itself call the program, with nothing of this file on the stack that
// errors show.
function script(code, filename, options) {
  return [vm.runInThisContext, code, {
    filename, importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER, ...options,
  }];
}

// Binds what `node -e` gives a script: a module to belong to, though it is in no file.
function makeMain() {
  process.chdir(WORKSPACE);
  const path = `${WORKSPACE}/${FILENAME}`;
  process.argv.splice(1, Infinity, path);
  const module = new Module(path);
  module.filename = path;
  module.paths = Module._nodeModulePaths(WORKSPACE);
  const require = Module.createRequire(path);
  require.main = process.mainModule = module;
  Object.assign(globalThis, {
    module, require, exports: module.exports, __filename: path, __dirname: WORKSPACE,
  });
}

// Sessions

// What process.exit throws, so that the program ends and the interpreter does not.
const EXIT = Object.assign(new Error('the program has called process.exit()'), { stack: '' });
EXIT[inspect.custom] = () => EXIT.message;

// Runs one job after another. A program has ended when the event loop has nothing left, which is
// when node would exit: the driver is told by beforeExit, and waits for the next job right there.
function stay(first, ready) {
  const sources = new Map(); // each program's lines, by its file name
  const timers = trackTimers();
  writeAtOnce(process.stdout, 1);
  writeAtOnce(process.stderr, 2);
  delete process.env.EXECGATE_SESSION;
  let count = 0;
  let program; // the one that runs: {result, before, exit}

  process.exit = (code) => {
    if (code !== undefined) process.exitCode = code;
    const ending = program;
    if (ending !== undefined) {
      ending.exit ??= Number(process.exitCode ?? 0) & 0xff;
      // A program may catch what is thrown; it is not asked whether it ends.
      setImmediate(() => { if (program === ending) finish(ending.exit, true); });
    }
    throw EXIT;
  };
  const interrupted = () => {
    // One of the program's own decides for itself.
    if (program !== undefined && process.listenerCount('SIGINT') === 1) finish(INTERRUPTED, true);
  };
  listen();
  process.on('beforeExit', idle);
  process.setUncaughtExceptionCaptureCallback(caught);
  makeMain();
  begin(first);

  function begin(job) {
    // Two turns of the event loop, in which an interrupt of no program is delivered, and ignored.
    setImmediate(() => setImmediate(start, job));
  }

  function start(job) {
    count++;
    const filename = count === 1 ? FILENAME : `main-${count}.js`;
    sources.set(filename, job.code.split('\n'));
    const before = setEnvironment(job.env ?? {});
    process.chdir(WORKSPACE);
    renewStdin();
    globalThis.INPUT_DATA = job.input ?? null;
    program = { result: resultAt(job.result, removeResult()), before };
    tell('T');
    process.nextTick(...script(job.code, filename, { breakOnSigint: true }));
    process.nextTick(listen);
  }

  // Makes node listen to SIGINT anew where the program does so too: what it began to listen for
  // while its script was to break on that is not heard once the script is done.
  function listen() {
    const listeners = process.listeners('SIGINT').filter((listener) => listener !== interrupted);
    if (listeners.length === 0 && process.listenerCount('SIGINT') === 1) return;
    process.removeAllListeners('SIGINT');
    for (const listener of [interrupted, ...listeners]) process.on('SIGINT', listener);
  }

  function idle() {
    // The program's own listeners come first, and may give the event loop more to do.
    if (process.listeners('beforeExit').at(-1) !== idle) {
      process.removeListener('beforeExit', idle);
      process.on('beforeExit', idle);
      setImmediate(() => {});
    } else if (program?.result.settled()) {
      finish(program.exit ?? (Number(process.exitCode ?? 0) & 0xff), false);
    } else {
      setImmediate(() => {}); // which has node come by here again
    }
  }

  function caught(error) {
    if (program === undefined) return; // what an earlier program left
    if (error === EXIT) return finish(program.exit, true);
    if (error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') return finish(INTERRUPTED, true);
    if (process.listenerCount('uncaughtException') > 0) {
      try {
        process.emit('uncaughtException', error, 'uncaughtException');
        return;
      } catch (another) {
        if (another === EXIT) return finish(program.exit, true);
        error = another;
      }
    }
    process.stderr.write(describe(error, sources));
    finish(1, true);
  }

  function finish(status, abruptly) {
    const { result, before } = program;
    program = undefined;
    if (abruptly) abandon(timers);
    result.give();
    setEnvironment(before);
    process.exitCode = undefined;
    for (const listener of process.listeners('SIGINT')) {
      if (listener !== interrupted) process.removeListener('SIGINT', listener);
    }
    listen();
    if (!process.listeners('beforeExit').includes(idle)) process.on('beforeExit', idle);
    tell('D', status);
    let job;
    try {
      job = readJob();
    } catch (error) {
      lose(error);
    }
    if (job === null) {
      process.exit = exit;
      exit(0);
    }
    begin(job);
  }

  function tell(word, ...status) {
    if (ready === undefined) return;
    try {
      writeSync(ready, Buffer.from([word.charCodeAt(0), ...status]));
    } catch (error) {
      lose(error);
    }
  }

  function lose(error) {
    process.stderr.write(`execgate: the session is lost: ${error}\n`);
    process.exit = exit;
    exit(DRIVER_FAULT);
  }
}

// Has a stream hand each write to the system itself: node's own streams stay in the middle of a
// write for ever if an interrupt ends the script there.
function writeAtOnce(stream, fd) {
  stream.write = (chunk, encoding, callback) => {
    if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
    writeAll(fd, typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk);
    if (typeof callback === 'function') process.nextTick(callback);
    return true;
  };
}

function writeAll(fd, data) {
  while (data.length > 0) {
    try {
      data = data.subarray(writeSync(fd, data));
    } catch (error) {
      if (error.code !== 'EAGAIN' && error.code !== 'EINTR') throw error;
    }
  }
}

// Sets variables, where undefined stands for none, and returns what they were.
function setEnvironment(env) {
  const before = {};
  for (const [name, value] of Object.entries(env)) {
    before[name] = process.env[name];
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  return before;
}

// Descriptor 0 is a file that was filled anew: a stream that has ended, or read ahead, is stale.
function renewStdin() {
  let stream;
  Object.defineProperty(process, 'stdin', {
    configurable: true, enumerable: true,
    get: () => (stream ??= new fs.ReadStream(null, { fd: 0, autoClose: false })),
  });
}

// Removes the result of the program before, and returns what cannot be: the value of a constant,
// which is then not the next program's result.
function removeResult() {
  Reflect.deleteProperty(globalThis, 'result');
  try {
    vm.runInThisContext('if (typeof result !== "undefined") result = undefined');
  } catch {
    // A constant.
  }
  try {
    return vm.runInThisContext('typeof result === "undefined" ? undefined : result');
  } catch {
    return undefined; // a name whose declaration was never reached
  }
}

// Keeps account of the timers that programs start, which node itself does not tell.
function trackTimers() {
  const live = new Set();
  let most = 1000;
  const keep = (timer) => {
    if (live.size >= most) {
      for (const old of live) if (old._destroyed) live.delete(old);
      most = Math.max(1000, 2 * live.size);
    }
    live.add(timer);
    return timer;
  };
  const module = require('timers');
  const promises = require('timers/promises');
  for (const name of ['setTimeout', 'setInterval', 'setImmediate']) {
    const original = globalThis[name];
    const tracked = (...args) => keep(original(...args));
    Object.defineProperty(tracked, 'name', { value: name });
    if (name !== 'setInterval') {
      const promised = promises[name];
      const waits = name === 'setTimeout'
        ? (delay, value, options) => options ? promised(delay, value, options) : new Promise((done) => tracked(done, delay, value))
        : (value, options) => options ? promised(value, options) : new Promise((done) => tracked(done, value));
      promises[name] = tracked[promisify.custom] = waits;
    }
    globalThis[name] = module[name] = tracked;
  }
  Module.syncBuiltinESMExports();
  return live;
}

// Ends what a program waited for, as far as it can be, and waits no longer for the rest.
function abandon(timers) {
  for (const timer of timers) {
    clearTimeout(timer);
    clearImmediate(timer);
  }
  timers.clear();
  for (const handle of process._getActiveHandles()) {
    if (handle !== process.stdout && handle !== process.stderr) handle.unref?.();
  }
}

// Returns what node would print of an error that nobody caught, without the lines of this file.
function describe(error, sources) {
  let text;
  try {
    text = types.isNativeError(error) ? inspect(error) : `Uncaught ${inspect(error)}`;
  } catch {
    text = 'Uncaught error, which cannot be shown';
  }
  const lines = text.split('\n').filter((line) => !line.includes(__filename));
  const place = lines.map((line) => /\b(main(?:-\d+)?\.js):(\d+):(\d+)\)?$/.exec(line)).find(Boolean);
  // What the script itself throws has its line already.
  if (place && !/^main(-\d+)?\.js:\d+$/.test(lines[0]) && sources.get(place[1])?.[place[2] - 1] !== undefined) {
    lines.unshift(`${place[1]}:${place[2]}`, sources.get(place[1])[place[2] - 1], `${' '.repeat(place[3] - 1)}^`, '');
  }
  if (sources.size > 1 && /^SyntaxError: Identifier .* has already been declared$/m.test(text)) {
    lines.push('', 'What let, const and class declare stays for the session: use var, or assign to a name that let declared.');
  }
  return `${lines.join('\n')}\n`;
}

// The result

// One line for the program's author: what is wrong, and what to do.
class NotJSON extends Error {}

// Returns the result of the program that runs, to be written to path: settled says whether nothing
// of it is left to wait for, and give writes it. A value that is stale is none.
function resultAt(path, stale) {
  const absent = {};
  // The names that let and const bind are in no object; another script sees them.
  const script = new vm.Script('typeof result === "undefined" ? undefined : result');
  const look = () => {
    try {
      const value = script.runInThisContext();
      return value === stale ? undefined : value;
    } catch (error) {
      // The program ended above the line that binds the name.
      if (error instanceof ReferenceError) return undefined;
      throw error;
    }
  };

  // A promise is waited for when nothing else is; waiting may give the event loop more to do.
  let promise = absent;
  let outcome;
  return { settled, give };

  function settled() {
    try {
      const value = look();
      if (value === promise || !isPromise(value)) return true;
      promise = value;
      outcome = undefined;
      settle(value).then((settled) => {
        if (promise === value) outcome = settled;
      });
      return false;
    } catch {
      return true; // met again below, where it can be told
    }
  }

  function give() {
    let data;
    try {
      data = encode(promised(look()));
    } catch (error) {
      tell(error);
      return;
    }
    if (data === undefined) return;
    try {
      write(path, data);
    } catch (error) {
      tell(new NotJSON(`result could not be written: ${error.message}`));
    }
  }

  function tell(error) {
    try {
      write(path, '');
      write(`${path}.error`, explain(error));
    } catch {
      // No room even for that; the program's exit status stays its own.
    }
  }

  function promised(value) {
    if (!isPromise(value)) return value;
    if (value !== promise || outcome === undefined) {
      throw new NotJSON('result is a promise that was not settled when the program ended: await it before');
    }
    if ('error' in outcome) throw new NotJSON(`result is a promise that was rejected: ${outcome.error}`);
    return outcome.value;
  }
}

function isPromise(value) {
  return value !== null && typeof value === 'object' && typeof value.then === 'function';
}

async function settle(promise) {
  try {
    return { value: await promise };
  } catch (error) {
    return { error };
  }
}

// Returns JSON, or undefined for undefined.
function encode(value) {
  return stringify(value, function (key, value) {
    if (!key.isWellFormed() || (typeof value === 'string' && !value.isWellFormed())) {
      throw new NotJSON('result holds text that is not valid Unicode: use .toWellFormed()');
    }
    if (typeof value === 'number' && !Number.isFinite(value)) {
      throw new NotJSON('result holds NaN or Infinity, which JSON cannot hold: use null in its place');
    }
    const original = this[key]; // before toJSON
    const advice = unfit(original);
    if (advice) {
      throw new NotJSON(`result holds a value of type ${typeName(original)}, which JSON cannot hold: use ${advice}`);
    }
    return types.isTypedArray(value) ? Array.from(value) : value;
  });
}

// Returns what to use instead of a value that stringify would drop, or write as an empty object.
function unfit(value) {
  if (typeof value === 'bigint') return 'Number(...) or String(...)';
  if (typeof value === 'function' || typeof value === 'symbol') return 'numbers, text, arrays and plain objects';
  if (value === null || typeof value !== 'object') return '';
  if (Buffer.isBuffer(value)) return "text, from .toString() or .toString('base64')";
  if (typeof value.toJSON === 'function') return '';
  if (types.isMap(value)) return 'Object.fromEntries(...)';
  if (types.isSet(value)) return 'Array.from(...)';
  if (types.isMapIterator(value) || types.isSetIterator(value)) return 'Array.from(...)';
  if (types.isGeneratorObject(value)) return 'Array.from(...)';
  if (types.isPromise(value)) return 'its value, from await';
  if (types.isNativeError(value)) return 'its message';
  if (types.isRegExp(value)) return 'String(...)';
  if (types.isAnyArrayBuffer(value) || types.isDataView(value)) {
    return "text, from Buffer.from(...).toString('base64')";
  }
  if (types.isWeakMap(value) || types.isWeakSet(value)) return 'numbers, text, arrays and plain objects';
  return '';
}

function typeName(value) {
  return typeof value === 'object' ? value.constructor?.name || 'object' : typeof value;
}

function explain(error) {
  let text;
  try {
    if (error instanceof NotJSON) {
      text = error.message;
    } else if (error instanceof RangeError && /call stack/.test(error.message)) {
      text = 'result is nested too deeply for JSON: make it flatter';
    } else if (error instanceof TypeError && /^Converting circular/.test(error.message)) {
      text = 'result contains itself, which JSON cannot hold: use a copy without the cycle';
    } else {
      text = `result could not be made JSON: ${error}`;
    }
  } catch {
    text = 'result could not be made JSON';
  }
  return text.split(/\s+/).join(' ').trim().slice(0, 1000).toWellFormed();
}

function write(path, text) {
  const fd = openSync(path, 'w', 0o644);
  try {
    // Whatever umask the program set: the agent may be another user, without capabilities.
    fchmodSync(fd, 0o644);
    writeAll(fd, Buffer.from(text));
  } finally {
    closeSync(fd);
  }
}

main(process.argv.slice(2));
