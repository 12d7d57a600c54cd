package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxNumberBytes bounds a number as it is written. To read one takes the evaluator the
// square of its length: seconds for the 200 KB that a caller may send as a text, in a
// call that nothing interrupts.
const maxNumberBytes = 1 << 10

// The evaluator's own builtins that make numbers of texts are replaced by ones that
// refuse a number that is longer. OPA keeps builtins for the whole process, and this
// package alone evaluates in it.
func init() {
	for _, name := range []string{ast.ToNumber.Name, ast.UnitsParse.Name, ast.UnitsParseBytes.Name} {
		bound(name, func(text string) bool { return len(text) > maxNumberBytes })
	}
	bound(ast.JSONUnmarshal.Name, longNumber)
}

// bound has the builtin fail for a first operand that is too long.
func bound(name string, tooLong func(string) bool) {
	own := topdown.GetBuiltin(name)
	topdown.RegisterBuiltinFunc(name, func(ctx topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		if text, ok := operands[0].Value.(ast.String); ok && tooLong(string(text)) {
			return fmt.Errorf("operand 1 holds a number of more than %d bytes", maxNumberBytes)
		}
		return own(ctx, operands, iter)
	})
}

// longNumber reports whether a JSON text has a number that is too long. What stands in
// its strings is none.
func longNumber(text string) bool {
	length, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted, length = !quoted, 0
		case quoted:
		case c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E':
			if length++; length > maxNumberBytes {
				return true
			}
		default:
			length = 0
		}
	}
	return false
}
