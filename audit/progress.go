package audit

// Progress returns how many records the log holds, of all its lives, and how many
// of them the last checkpoint has signed. Void numbers count.
func (l *Log) Progress() (durable, signed uint64) {
	tree, _ := l.writer.tip.snapshot()
	return tree.size, l.proof.signed.Load()
}
