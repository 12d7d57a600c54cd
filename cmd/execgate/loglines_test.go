package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"sync"
)

// logLines is the log of a process, as JSON lines.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all of it.
func (l *logLines) String() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tail returns the last n lines.
func (l *logLines) tail(n int) string {
	lines := strings.SplitAfter(l.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// find returns the texts in the first line with that message, nil where there is
// none.
func (l *logLines) find(message string) map[string]string {
	for lines := bufio.NewScanner(strings.NewReader(l.String())); lines.Scan(); {
		var fields map[string]any
		if json.Unmarshal(lines.Bytes(), &fields) != nil || fields["msg"] != message {
			continue
		}
		texts := map[string]string{}
		for name, value := range fields {
			if text, ok := value.(string); ok {
				texts[name] = text
			}
		}
		return texts
	}
	return nil
}
