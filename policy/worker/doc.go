// Package worker runs work in processes of their own, so that it can be ended
// from outside: what takes too long is killed, what takes too much memory dies,
// and what runs for one key neither holds up nor ends what runs for another.
package worker
