package store

import (
	"context"
	"fmt"
)

// Erase gives up the bodies of the executions that are selected and over, which read
// as expired from then on; their keys stay, so that nothing runs twice. before is told
// how many they are; only where it returns nil is it done. What is under way stays: it
// can be erased once it is over.
func (e *Executions) Erase(ctx context.Context, which Selection, before func(int64) error) error {
	condition, args, err := which.where("id", "created_ms")
	if err != nil {
		return err
	}
	condition += " AND body IS NOT NULL AND state IN " + final
	var n int64
	if err := e.store.read.QueryRowContext(ctx, "SELECT count(*) FROM executions WHERE "+condition, args...).Scan(&n); err != nil {
		return fmt.Errorf("count results to be erased: %w", err)
	}
	if err := before(n); err != nil {
		return err
	}
	if _, err := e.store.write.ExecContext(ctx, "UPDATE executions SET state = 'expired', body = NULL WHERE "+condition, args...); err != nil {
		return fmt.Errorf("erase results: %w", err)
	}
	return e.store.scrubLog(ctx)
}
