// Package export delivers the records of the audit log to other systems: a file of
// JSON lines, an HTTP receiver, a syslog receiver.
//
// Each exporter follows the log on the disk by itself, with memory for two batches, so
// that one that is slow or dead delays nobody. Delivery is at least once: an exporter's
// cursor, in a file of its own, moves only past what its receiver has acknowledged, and
// whatever is not known to have arrived is sent again. Records arrive in their order,
// and each carries the log's id and its number, by which a receiver finds what it has
// already.
package export
