// Package activation is the one way in which policies come into force: the
// organisation's, tenants' own, and ceilings. Each is checked, a bundle in worker
// processes, swapped at once and recorded; the organisation's is kept for a rollback.
// Whatever fails keeps the last good one serving.
package activation
