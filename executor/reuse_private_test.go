package executor

import "time"

// CleanWithin is how long an agent may take to clean a sandbox for the next program. It is
// called before Run is.
func (e *Executor) CleanWithin(patience time.Duration) { e.reused.patience = patience }
