// Package activation is the one way in which a policy of the organisation comes
// into force: checked in worker processes, swapped at once, recorded, kept for a
// rollback. Whatever fails keeps the last good one serving.
package activation
