// Package witness hands signed checkpoints of the audit log to places that keep
// them where the gateway's operator cannot change them: a file elsewhere, and a
// server. Both are audit.Witnesses, and know nothing of what a checkpoint says.
package witness
