'use strict';
/*
Runs one JavaScript program for Execgate.

The sandbox agent starts this file, through drivers/javascript, with descriptor 3 as the reading
end of a pipe, and sends one JSON object through it, ended by EOF:

    {"code": str, "input": any, "env": {name: value}, "result": "/path/for/the/result"}

"input" may be absent. Descriptors 0, 1 and 2 are the program's. The program is a script in sloppy
mode; what it binds to the name `result` is written to the result path as JSON once nothing is left
to wait for. If JSON cannot hold it, one line that says what to do goes to that path + ".error"
instead.

An interpreter can be parked: started ahead of its job, with modules to require as arguments. The
variable EXECGATE_READY then names a descriptor on which it writes P when it waits for the job and
T when it has it.
*/

const fs = require('fs');
const Module = require('module');
const vm = require('vm');
const { types } = require('util');
// Held, because the program may put others in their place.
const { parse, stringify } = JSON;
const { closeSync, fchmodSync, openSync, writeSync } = fs;
const { exit } = process;

const JOB_FD = 3;
const READY = 'EXECGATE_READY';
const WORKSPACE = '/workspace';
const FILENAME = 'main.js';
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
  const ready = process.env[READY];
  delete process.env[READY];
  let job;
  try {
    if (ready !== undefined) writeSync(Number(ready), 'P');
    job = readJob();
    if (ready !== undefined) {
      if (job !== null) writeSync(Number(ready), 'T');
      closeSync(Number(ready));
    }
  } catch (error) {
    console.error(`execgate: the job could not be read: ${error}`);
    exit(DRIVER_FAULT);
  }
  if (job !== null) run(job);
}

// Returns the job, or null if the pipe was closed without one.
function readJob() {
  const text = fs.readFileSync(JOB_FD, 'utf8').trim();
  closeSync(JOB_FD);
  if (text === '') return null;
  const job = parse(text);
  if (typeof job?.code !== 'string' || typeof job.result !== 'string') {
    throw new TypeError('not a JSON object with code and result');
  }
  return job;
}

// Makes the streams keep a write until the system has taken all of it: a program that exits or is
// killed has lost nothing. Node's own pipes keep what did not fit in memory.
function writeThrough() {
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
}

function run(job) {
  Object.assign(process.env, job.env);
  process.chdir(WORKSPACE);
  const path = `${WORKSPACE}/${FILENAME}`;
  process.argv.splice(1, Infinity, path);

  // What `node -e` gives a script: a module to belong to, though it is in no file.
  const module = new Module(path);
  module.filename = path;
  module.paths = Module._nodeModulePaths(WORKSPACE);
  const require = Module.createRequire(path);
  require.main = process.mainModule = module;
  Object.assign(globalThis, {
    module, require, exports: module.exports, __filename: path, __dirname: WORKSPACE,
    INPUT_DATA: job.input ?? null,
  });

  watchResult(job.result);
  // Called by node itself, with nothing of this file on the stack that errors show.
  process.nextTick(vm.runInThisContext, job.code, {
    filename: FILENAME,
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
}

// The result

// One line for the program's author: what is wrong, and what to do.
class NotJSON extends Error {}

function watchResult(path) {
  const absent = {};
  // The names that let and const bind are in no object; another script sees them.
  const script = new vm.Script('typeof result === "undefined" ? undefined : result');
  const look = () => {
    try {
      return script.runInThisContext();
    } catch (error) {
      // The program ended above the line that binds the name.
      if (error instanceof ReferenceError) return undefined;
      throw error;
    }
  };

  // A promise is waited for when nothing else is; waiting may give the event loop more to do.
  let promise = absent;
  let outcome;
  process.on('beforeExit', () => {
    try {
      const value = look();
      if (value === promise || !isPromise(value)) return;
      promise = value;
      outcome = undefined;
      settle(value).then((settled) => {
        if (promise === value) outcome = settled;
      });
    } catch {
      // Met again below, where it can be told.
    }
  });
  process.on('exit', () => {
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
  });

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
    for (let data = Buffer.from(text); data.length > 0; ) data = data.subarray(writeSync(fd, data));
  } finally {
    closeSync(fd);
  }
}

main(process.argv.slice(2));
