// Package audit is an append-only log that survives power loss, shows every
// edit, and refuses work rather than lose a record.
//
// # Folder
//
// The log's folder holds
//
//	0000000001.segment     frames, 64 MiB, space allocated when it is made
//	0000000001.checkpoint  a signed checkpoint taken once that segment was sealed
//	checkpoint             the latest signed checkpoint
//	rotated-43.checkpoint  the checkpoint, of 43 records, that rotated the key
//	1.spare                space for the next segment
//
// and the folder of keys, which must lie elsewhere,
//
//	audit.key              the signing key (sumdb/note, Ed25519), mode 0600
//	audit.pub              the verifier key: all that Verify needs, meant to be handed out
//	audit.checkpoint       the checkpoint that the log last had, so that a folder
//	                       that was emptied or rolled back is noticed at start
//
// # Frames
//
// A segment is a sequence of frames, little endian:
//
//	length  uint32  bytes of the body
//	crc     uint32  CRC-32C of length, type, seq and body
//	type    uint8
//	seq     uint64
//	body    [length]byte
//
// The first frame is the segment's header; then come batches, each a batch
// header followed by its records. A record's body is
//
//	ref     uint64    of an end the number of its decision, else 0
//	salt    [16]byte  random
//	payload           the execution.Record as JSON
//
// A batch is written with one pwrite and acknowledged after fdatasync. Its
// header says how many sequence numbers were durable before it, so only the
// last batch of the last segment can be torn by a crash; any other bad frame is
// damage to what was acknowledged. Zeros follow the last batch.
//
// A segment's header names the segment before it, and where that one's valid
// bytes end; when it began; the number from which retention had left the log; and
// the decisions that were open, with their places, so that a start need not read
// what lies before. After a failed write or fdatasync a file is never written again:
// the next segment's header cuts it off there, and its first record is a gap
// that names the numbers which are void.
//
// # Retention
//
// The oldest segments may be removed, one after the other, once a record of the
// type segments_removed says so. The log then begins with a later segment. The
// checkpoint that was taken when the last removed one was sealed stays until the
// one after it goes too, and vouches for the tree in the first header.
//
// # Proof
//
// Every sequence number is one leaf of a Merkle tree (RFC 6962, as in
// golang.org/x/mod/sumdb/tlog), void numbers too, so that a number is its leaf's
// index and the tree's size is the next number. A leaf is
//
//	version uint8 = 1, type uint8, seq uint64, ref uint64 (big endian),
//	SHA-256(salt || payload)
//
// so that it can be proven without showing the payload. A segment's header
// carries the tree's state where the segment begins, so that it can be checked
// without the segments before it; a signed checkpoint of a later state vouches
// for that. Checkpoints are C2SP tlog-checkpoints: origin, size, root.
//
// A rotation of the key is a checkpoint with one line more, "key-rotated OLD NEW",
// that both keys sign; its last record names them too. Prove and Export write files
// that are checked without the log.
//
// What one machine cannot prove alone: changes after the last checkpoint, and
// changes by whoever holds the signing key, show only to somebody who keeps an
// earlier checkpoint elsewhere: a Witness.
package audit
