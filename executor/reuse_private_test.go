package executor

import "time"

// CleanTimeout is how long an agent may take to clean a sandbox for the next program.
const CleanTimeout = cleanTimeout

// CleanWithin has it take as long as that. It is called before anything is run.
func (e *Executor) CleanWithin(patience time.Duration) { e.reused.patience = patience }
