package gateway

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The bounds of what is redacted. They bound the memory that a stream holds back,
// and the time that one byte of it takes.
const (
	maxPatterns     = 32
	maxPatternBytes = 512  // of one pattern's text
	maxMatchBytes   = 1024 // of the longest text that a pattern can match
	maxInstructions = 2000 // of all patterns' programs together
)

// redacted stands in the place of what was matched.
const redacted = "[redacted]"

// redaction replaces what matches one of its patterns. It is safe for concurrent
// use.
type redaction struct {
	pattern *regexp.Regexp
	longest int // bytes of the longest match
}

// newRedaction joins patterns, in RE2's syntax, to one: of two that match at the
// same place the first in the list counts. Each must match a text of bounded
// length, and not the empty one, without looking around: with these, where a stream
// is cut into chunks makes no difference.
func newRedaction(patterns []string) (*redaction, error) {
	if len(patterns) == 0 || len(patterns) > maxPatterns {
		return nil, fmt.Errorf("there must be from 1 to %d patterns", maxPatterns)
	}
	r := &redaction{}
	var all []string
	for i, p := range patterns {
		if len(p) > maxPatternBytes {
			return nil, fmt.Errorf("pattern %d has more than %d bytes", i, maxPatternBytes)
		}
		parsed, err := syntax.Parse(p, syntax.Perl)
		if err != nil {
			return nil, fmt.Errorf("pattern %d is no regular expression of RE2", i)
		}
		least, most, err := matchBytes(parsed)
		switch {
		case err != nil:
			return nil, fmt.Errorf("pattern %d %w", i, err)
		case least == 0:
			return nil, fmt.Errorf("pattern %d matches the empty text", i)
		case most > maxMatchBytes:
			return nil, fmt.Errorf("pattern %d can match %d bytes, more than %d", i, most, maxMatchBytes)
		}
		r.longest = max(r.longest, most)
		all = append(all, "(?:"+p+")")
	}
	joined := strings.Join(all, "|")
	parsed, err := syntax.Parse(joined, syntax.Perl)
	if err != nil {
		return nil, errors.New("the patterns together are too large")
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxInstructions {
		return nil, errors.New("the patterns together are too large")
	}
	if r.pattern, err = regexp.Compile(joined); err != nil {
		return nil, errors.New("the patterns together are too large")
	}
	return r, nil
}

// matchBytes is how many bytes a match can have, at least and at most.
func matchBytes(re *syntax.Regexp) (least, most int, err error) {
	switch re.Op {
	case syntax.OpEmptyMatch:
		return 0, 0, nil
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			a, b := runeWidth(r, re.Flags&syntax.FoldCase != 0)
			least, most = least+a, most+b
		}
		return least, most, nil
	case syntax.OpCharClass:
		if len(re.Rune) == 0 {
			return 0, 0, errors.New("matches nothing")
		}
		_, most = runeWidth(re.Rune[len(re.Rune)-1], false)
		return 1, most, nil
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, utf8.UTFMax, nil
	case syntax.OpCapture:
		return matchBytes(re.Sub[0])
	case syntax.OpQuest:
		_, most, err = matchBytes(re.Sub[0])
		return 0, most, err
	case syntax.OpStar, syntax.OpPlus:
		return 0, 0, errors.New("can match without end: write a bound, such as {1,200}")
	case syntax.OpRepeat:
		if re.Max < 0 {
			return 0, 0, errors.New("can match without end: write a bound, such as {1,200}")
		}
		least, most, err = matchBytes(re.Sub[0])
		return bounded(least * re.Min), bounded(most * re.Max), err
	case syntax.OpConcat, syntax.OpAlternate:
		return matchBytesOf(re)
	case syntax.OpNoMatch:
		return 0, 0, errors.New("matches nothing")
	}
	return 0, 0, errors.New(`looks around: ^, $, \A, \z, \b and \B cannot be used`)
}

func matchBytesOf(re *syntax.Regexp) (least, most int, err error) {
	for i, sub := range re.Sub {
		a, b, err := matchBytes(sub)
		switch {
		case err != nil:
			return 0, 0, err
		case re.Op == syntax.OpConcat:
			least, most = bounded(least+a), bounded(most+b)
		case i == 0:
			least, most = a, b
		default:
			least, most = min(least, a), max(most, b)
		}
	}
	return least, most, nil
}

// bounded keeps nested repetitions from overflowing: past the bound they are refused
// all the same.
func bounded(n int) int { return min(n, 1<<24) }

// runeWidth is how many bytes r takes, in any of its cases where it is folded. A
// byte that is no UTF-8 counts as U+FFFD.
func runeWidth(r rune, fold bool) (least, most int) {
	least, most = utf8.RuneLen(r), utf8.RuneLen(r)
	if most < 0 || r == utf8.RuneError {
		return 1, utf8.UTFMax
	}
	for other := unicode.SimpleFold(r); fold && other != r; other = unicode.SimpleFold(other) {
		least, most = min(least, utf8.RuneLen(other)), max(most, utf8.RuneLen(other))
	}
	return least, most
}
