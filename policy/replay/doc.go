// Package replay asks policies again about what was decided before, and counts
// what would have been decided otherwise.
package replay
